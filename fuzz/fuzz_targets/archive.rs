//! No archive leaves the folder that it is unpacked into.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::archive(bytes));
