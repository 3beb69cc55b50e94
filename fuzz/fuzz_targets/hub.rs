//! Nothing that the hub sends breaks a parser or leads out of a folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::hub(bytes));
