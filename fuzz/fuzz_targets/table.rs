//! The endpoint table: what decodes comes back as it went, costs memory in proportion, and can be placed by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_core::config::Config;
use warmpath_core::placement::Priority;
use warmpath_core::router::{Request, Router};
use warmpath_core::table::Table;
use warmpath_core::units::Millis;
use warmpath_core::view::{View, ViewLimits};
use warmpath_fuzz::bounded;
use xxhash_rust::xxh64::xxh64;

fuzz_target!(|data: &[u8]| {
    let Some((&way, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if way & 1 == 0 {
        // Nobody guesses a checksum.
        bytes.splice(0..0, *b"WPT\x01");
        let sum = xxh64(&bytes, 0);
        bytes.extend_from_slice(&sum.to_le_bytes());
    }
    let Ok(table) = bounded(bytes.len(), 1024, 64 << 20, || Table::decode(&bytes)) else { return };
    assert_eq!(Table::peek_version(&bytes), Some(table.version));
    assert_eq!(Table::decode(&table.encode()).as_ref(), Ok(&table));
    let config = Config::default();
    let mut view = View::new(ViewLimits::default());
    let mut router = Router::new(&config);
    for now in [0, 1, u64::MAX] {
        view.apply_table(&table, Millis(now));
        let model = table.endpoints.first().and_then(|e| e.models.first()).map(String::as_str);
        let decision = router.decide(&config, &view, Request::Load { model }, Priority(0), Millis(now));
        assert!(decision.choices.len() <= config.limits.choices);
        for choice in &decision.choices {
            assert!(table.endpoints.iter().any(|e| e.address == choice.address && e.state.is_choosable()));
        }
    }
});
