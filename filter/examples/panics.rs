//! Which panics a built filter holds, and whose code calls them: `make check-panics`.
//!
//! A panic ends Envoy's VM, with all that the worker knows and the requests in it. Lints deny in our code what may panic
//! by its name (`unwrap`, `expect`, `panic!`, indexing). This looks at what the compiler has made of it: each function that
//! calls a panic of the standard library is ours and [excused](OURS), or of a crate of which is [known](OTHERS) why it may.
//! Running out of memory is no panic here: nothing could go on then.

use rustc_demangle::demangle;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::process::ExitCode;
use wasmparser::{KnownCustom, Name, Operator, Parser, Payload, TypeRef};

/// Functions of ours in which a panic is left, and why it cannot happen.
const OURS: [(&str, &str); 3] = [
    ("warmpath_core::config::Config::parse", "text of an error: `Display` of serde_json's does not fail"),
    ("warmpath_core::config::Config::without_secrets", "serde_json's map, a B-tree that checks its own nodes"),
    (
        "warmpath_filter::feed::Feed::message",
        "a queue's own check that its length does not overflow; it holds `MAX_WAITING` at most",
    ),
];

/// Crates that panic, and why that is not reached.
const OTHERS: [(&str, &str); 11] = [
    ("alloc", "own invariants, and arguments that our code would have to get wrong where it calls it"),
    ("bytes", "as std; lengths are checked by prost before"),
    ("core", "as alloc"),
    ("hashbrown", "own invariants; a capacity that memory has no place for"),
    ("prost", "lengths are checked before they are used"),
    (
        "proxy_wasm",
        "statuses that Envoy does not return; our calls to it do not go through it (`filter/src/host/envoy.rs`)",
    ),
    ("serde_core", "own invariants"),
    ("serde_json", "own invariants; reads configurations only, and is fuzzed with them"),
    ("simdutf8", "own invariants"),
    ("std", "as alloc, and the handler of panics itself"),
    ("xxhash_rust", "own invariants; fuzzed with the reader"),
];

/// Parts of names that make a function of the standard library a panic.
const PANICS: [&str; 6] = ["panicking::", "_failed", "_fail", "panic_", "rust_panic", "process::abort"];
/// And those of running out of memory.
const OUT_OF_MEMORY: [&str; 3] = ["handle_alloc_error", "handle_error", "capacity_overflow"];

#[derive(Default)]
struct Module {
    names: HashMap<u32, String>,
    calls: BTreeMap<u32, BTreeSet<u32>>,
}

impl Module {
    fn read(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (mut module, mut next) = (Self::default(), 0);
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ImportSection(imports) => {
                    for import in imports {
                        next += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let calls = module.calls.entry(next).or_default();
                    for operator in body.get_operators_reader()? {
                        if let Operator::Call { function_index } = operator? {
                            calls.insert(function_index);
                        }
                    }
                    next += 1;
                }
                Payload::CustomSection(section) => {
                    let KnownCustom::Name(names) = section.as_known() else { continue };
                    for name in names {
                        let Name::Function(functions) = name? else { continue };
                        for function in functions {
                            let function = function?;
                            module.names.insert(function.index, format!("{:#}", demangle(function.name)));
                        }
                    }
                }
                _ => {}
            }
        }
        if module.names.len() < module.calls.len() {
            return Err("functions have no names: it is stripped".into());
        }
        Ok(module)
    }

    fn name(&self, function: u32) -> &str {
        self.names.get(&function).map_or("", String::as_str)
    }

    /// Callers and the panics that they call.
    fn panics(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (caller, called) in &self.calls {
            for name in called.iter().map(|f| self.name(*f)) {
                let is = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
                if is(&PANICS) && !is(&OUT_OF_MEMORY) {
                    found.entry(self.name(*caller)).or_default().insert(name);
                }
            }
        }
        found
    }
}

/// The crate of a demangled path: the first one named in it. The SDK exports its callbacks without a path.
fn crate_of(path: &str) -> &str {
    let words = path.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    match words.into_iter().find(|word| !["impl", "dyn", "mut", "const", "as", "T"].contains(word)) {
        Some("__rustc") => "std",
        Some("str") => "core",
        Some(export) if export.starts_with("proxy_on_") => "proxy_wasm",
        found => found.unwrap_or_default(),
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("which module?")?;
    let module = Module::read(&std::fs::read(path)?)?;
    let panics = module.panics();
    let (mut unexcused, mut seen) = (Vec::new(), BTreeMap::new());
    for (caller, called) in &panics {
        let of = crate_of(caller);
        // `<T as Trait>::method` is named by its type.
        let function = caller.trim_start_matches('<');
        let excused = match of.starts_with("warmpath") {
            true => OURS.iter().find(|(ours, _)| function.starts_with(ours)),
            false => OTHERS.iter().find(|(other, _)| *other == of),
        };
        match excused {
            Some((name, _)) => *seen.entry(*name).or_insert(0) += 1,
            None => unexcused.push(format!("{caller} calls {}", called.iter().copied().collect::<Vec<_>>().join(", "))),
        }
    }
    for (name, why) in OURS.iter().chain(&OTHERS) {
        match seen.get(name) {
            Some(count) => println!("{count:4} {name}: {why}"),
            None => unexcused.push(format!("{name} is excused and need not be")),
        }
    }
    println!("{} of {} functions call a panic", panics.len(), module.calls.len());
    for problem in &unexcused {
        eprintln!("{problem}");
    }
    Ok(if unexcused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
