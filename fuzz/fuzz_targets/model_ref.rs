//! Any text is a model reference that reads as it is written, or is refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::model_ref(bytes));
