//! Any record of a worker reads as it is written, or is none.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::worker_record(bytes));
