//! Incidents made of bytes break no invariant of the fleet.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rbee_hive::fuzzing::fleet(bytes));
