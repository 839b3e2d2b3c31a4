//! Any target of `stockd-fuzz` under libFuzzer; `STOCKD_FUZZ_TARGET` names it.
#![no_main]

use std::sync::OnceLock;

use stockd_fuzz::Target;

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("STOCKD_FUZZ_TARGET").unwrap_or_default();
        stockd_fuzz::target(&name).unwrap_or_else(|| panic!("no target is called '{name}'"))
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (target().run)(data));
