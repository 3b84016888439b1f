//! The plugin's configuration: an error names a path; what is accepted can be worked with; no secret is told on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use warmpath_core::config::Config;
use warmpath_core::router::Router;
use warmpath_core::view::View;

fuzz_target!(|json: &[u8]| {
    let told = Config::without_secrets(json);
    match Config::parse(json) {
        Err(error) => assert!(!error.path.is_empty() && !error.message.is_empty()),
        Ok(config) => {
            let other = Config::parse(&told).expect("the same without what is secret");
            assert!(other.explain_secret.is_empty());
            assert_eq!((&other.name, &other.pools, other.mode), (&config.name, &config.pools, config.mode));
            assert_eq!(other.limits, config.limits);
            for model in [None, Some("m")] {
                let pool = config.pool_of(model);
                assert!(pool <= config.pools.len());
                let _ = config.pool_name(pool);
            }
            assert_eq!(config.pool_names().count(), config.pools.len() + 1);
            let _ = (Router::new(&config), View::new(config.view_limits()));
        }
    }
});
