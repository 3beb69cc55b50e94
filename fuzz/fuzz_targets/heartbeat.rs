//! Any heartbeat reads as it is written, or is none; what is known of a boot does not get older.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::heartbeat(bytes));
