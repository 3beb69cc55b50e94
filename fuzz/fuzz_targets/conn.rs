//! Connection bytes read the same in any pieces, and never panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::conn(bytes));
