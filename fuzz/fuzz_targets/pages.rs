//! What the sidecar and its commands read of others: vLLM's metrics page and list of models, the file of endpoints, an
//! explanation, a stream of an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_core::explain::Explanation;
use warmpath_fuzz::{bounded, chunks};
use warmpath_sidecar::discovery::file;
use warmpath_sidecar::pods::adapters::Resident;
use warmpath_sidecar::pods::identity::Identity;
use warmpath_sidecar::pods::page::samples;
use warmpath_sidecar::pods::{models, vllm};
use warmpath_sidecar::validate::stream::Reader;
use warmpath_sidecar::why::text::text;

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind % 5 {
        0 => metrics(data),
        1 => {
            if let Ok(models) = models::read(data) {
                assert!(models.len() <= 4096 && models.is_sorted_by(|a, b| a < b));
            }
        }
        2 => match file::parse(data) {
            Ok(endpoints) => assert!(endpoints.iter().all(|e| e.address.contains(':'))),
            Err(why) => assert!(!why.is_empty()),
        },
        3 => {
            if let Ok(explanation) = serde_json::from_slice::<Explanation>(data) {
                // Between our own colours nothing that a terminal obeys.
                let told = text(&explanation);
                let colours = told.split('\u{1b}').skip(1).map(|part| part.find('m').filter(|end| *end < 8));
                assert!(colours.into_iter().all(|end| end.is_some()), "{told:?}");
                assert!(told.chars().all(|c| matches!(c, '\n' | '\u{1b}') || !c.is_control()), "{told:?}");
            }
        }
        _ => {
            let Some((sizes, data)) = data.split_first_chunk::<3>() else { return };
            let read = |chunks: &mut dyn Iterator<Item = &[u8]>| {
                let mut reader = Reader::default();
                chunks.for_each(|chunk| reader.push(chunk));
                (reader.text, reader.generated, reader.done, reader.broken)
            };
            assert_eq!(read(&mut std::iter::once(data)), read(&mut chunks(data, sizes)));
        }
    }
});

fn metrics(page: &[u8]) {
    for sample in samples(page) {
        assert!(!sample.name.is_empty());
        for label in ["engine", "max_lora", "running_lora_adapters"] {
            let _ = sample.label(label);
        }
    }
    let read = bounded(page.len(), 512, 1 << 16, || vllm::read(page));
    let mut with_a_bad_line = b"vllm:num_requests_running{engine=\"\xff 1\n".to_vec();
    with_a_bad_line.extend_from_slice(page);
    // By their text: a NaN is not even equal to itself.
    assert_eq!(format!("{read:?}"), format!("{:?}", vllm::read(&with_a_bad_line)));
    if let Ok(page) = read {
        assert!(page.engines.len() <= 256);
        let (caches, _) = Identity::new("10.0.0.1:80", None).caches(&page);
        assert_eq!(caches.len(), page.engines.len());
        let _ = Resident::default().observe(&page, true);
    }
}
