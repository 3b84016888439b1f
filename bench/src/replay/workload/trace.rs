//! Recorded requests, of either format, plain or gzipped.

use super::draw::Draw;
use super::{Arrival, Workload, bodies, mooncake};
use crate::json::Json;
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A trace that was read.
#[derive(Clone, Debug)]
pub struct Trace {
    /// As recorded.
    pub workload: Workload,
    /// Seconds that its clock stands still at a time.
    pub tick: f64,
}

impl Trace {
    /// Reads a file; its first line says which format it has. The error names file and line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut lines = Lines::open(path)?;
        let first = lines.next().ok_or_else(|| format!("{} holds no requests", path.display()))??;
        let value: Json = first.parse()?;
        let all = std::iter::once(Ok(first.clone())).chain(lines);
        let mut trace = if value.get("hash_ids").is_some() {
            mooncake::read(all)?
        } else if value.get("body").is_some() {
            bodies::read(all)?
        } else {
            return Err(first.wrong("neither `hash_ids` (Mooncake) nor `body` (OpenAI request) is there"));
        };
        let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
        trace.workload.name = name.split('.').next().unwrap_or_default().to_owned();
        Ok(trace)
    }

    /// Reads a file once, however often it is asked for.
    pub fn once(path: &Path) -> Result<Arc<Self>, String> {
        static READ: Mutex<BTreeMap<PathBuf, Arc<Trace>>> = Mutex::new(BTreeMap::new());
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = read.get(path) {
            return Ok(Arc::clone(trace));
        }
        let trace = Arc::new(Self::read(path)?);
        read.insert(path.to_owned(), Arc::clone(&trace));
        Ok(trace)
    }

    /// The workload `speed` times as fast as recorded; the seed decides where in its tick a request comes.
    pub fn play(&self, speed: f64, seed: u64) -> Workload {
        let mut workload = self.workload.clone();
        if self.tick > 0.0 {
            let mut draw = Draw::new(seed);
            for request in &mut workload.requests {
                if let Arrival::At(at) = &mut request.arrival {
                    *at += self.tick * draw.share();
                }
            }
            workload.requests.sort_by(|a, b| at(a.arrival).total_cmp(&at(b.arrival)));
        }
        workload.scaled(speed);
        workload
    }
}

/// Traces have nothing but times.
fn at(arrival: Arrival) -> f64 {
    match arrival {
        Arrival::At(at) => at,
        Arrival::After(..) => f64::INFINITY,
    }
}

impl Workload {
    /// Makes it `factor` times as fast: requests and events come so much sooner. Think times stay.
    pub fn scaled(&mut self, factor: f64) {
        for request in &mut self.requests {
            if let Arrival::At(at) = &mut request.arrival {
                *at /= factor;
            }
        }
        self.events.iter_mut().for_each(|e| e.at /= factor);
    }
}

/// One line, and where it is from.
#[derive(Clone, Debug)]
pub struct Line {
    name: Arc<str>,
    number: usize,
    text: String,
}

impl Line {
    /// The line as JSON.
    pub fn parse<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, String> {
        serde_json::from_str(&self.text).map_err(|error| self.wrong(error))
    }

    /// What is wrong with it, as an error.
    pub fn wrong(&self, what: impl std::fmt::Display) -> String {
        format!("{}, line {}: {what}", self.name, self.number)
    }

    /// A line of nowhere.
    #[cfg(test)]
    pub fn test(number: usize, text: &str) -> Self {
        Self { name: "test.jsonl".into(), number, text: text.to_owned() }
    }
}

/// The lines of a file, without empty ones.
struct Lines {
    name: Arc<str>,
    number: usize,
    reader: Box<dyn BufRead>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let failed = |error| format!("cannot open {name}: {error}");
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        let zipped = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        Ok(Self { name: name.into(), number: 0, reader: Box::new(BufReader::with_capacity(1 << 16, reader)) })
    }
}

impl Iterator for Lines {
    type Item = Result<Line, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let mut text = String::new();
            let read = self.reader.read_line(&mut text);
            let line = Line { name: Arc::clone(&self.name), number: self.number, text };
            match read {
                Ok(0) => return None,
                Ok(_) if line.text.trim().is_empty() => {}
                Ok(_) => return Some(Ok(line)),
                Err(error) => return Some(Err(line.wrong(error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    const MOONCAKE: &str = r#"{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}"#;
    const BODY: &str = r#"{"t": 2.5, "body": {"messages": [{"role": "user", "content": "Hello."}]}}"#;

    /// A file that goes when it is dropped.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("warmpath-{}-{name}", std::process::id()));
            std::fs::write(&path, content).expect("a file");
            Self(path)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_first_line_says_which_format_it_is() {
        let mut zip = GzEncoder::new(Vec::new(), Compression::fast());
        zip.write_all(format!("\n{MOONCAKE}\n").as_bytes()).expect("in memory");
        let zipped = Temporary::new("a.jsonl.gz", &zip.finish().expect("in memory"));
        let plain = Temporary::new("b.jsonl", format!("{BODY}\n{BODY}").as_bytes());
        let mooncake = Trace::once(&zipped.0).expect("a trace");
        let bodies = Trace::once(&plain.0).expect("a trace");
        assert_eq!((mooncake.workload.endpoints, mooncake.workload.requests.len()), (8, 1));
        assert_eq!((bodies.workload.endpoints, bodies.workload.requests.len()), (4, 2));
        assert!(mooncake.workload.name.ends_with("-a"), "{}", mooncake.workload.name);
        assert!(Arc::ptr_eq(&mooncake, &Trace::once(&zipped.0).expect("a trace")));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = |name: &str, content: &[u8]| {
            let file = Temporary::new(name, content);
            let error = Trace::read(&file.0).expect_err("an error");
            error.replace(&file.0.display().to_string(), "FILE")
        };
        let second = |line: &str| format!("{MOONCAKE}\n{line}\n");
        assert_eq!(error("c", b""), "FILE holds no requests");
        assert!(error("d", b"{\"a\": 1}").starts_with("FILE, line 1: neither `hash_ids`"));
        assert!(error("e", second("{").as_bytes()).starts_with("FILE, line 2: EOF"));
        assert!(error("f", second("\n\n{\"timestamp\": 1}").as_bytes()).starts_with("FILE, line 4: missing field"));
        assert!(error("g", &[MOONCAKE.as_bytes(), b"\n\xff\n"].concat()).starts_with("FILE, line 2: "));
        assert!(error("h", &[0x1f, 0x8b, 0, 1]).starts_with("FILE, line 1: "));
        assert!(Trace::read(Path::new("/nowhere")).expect_err("an error").starts_with("cannot open /nowhere: "));
    }

    #[test]
    fn scaling_shortens_arrivals_and_events_but_no_think_time() {
        let mut workload = super::super::restart::restart(10.0, 1, 200);
        let before = workload.clone();
        workload.scaled(4.0);
        assert_eq!(workload.events[0].at * 4.0, before.events[0].at);
        for (now, was) in workload.requests.iter().zip(&before.requests) {
            match (now.arrival, was.arrival) {
                (Arrival::At(now), Arrival::At(was)) => assert_eq!(now * 4.0, was),
                (now, was) => assert_eq!(now, was),
            }
        }
    }
}
