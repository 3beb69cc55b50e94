//! What the fuzz targets run, each a function over bytes that panics if something is broken. The tests below
//! run the same over the kept corpus and over random bytes.

use std::collections::VecDeque;
use std::io::{self, Read};

use crate::api::Heartbeat;
use crate::capacity::{gguf, safetensors};
use crate::client::{Realm, sse};
use crate::http::Method;
use crate::http::route::{Route, route as find_route};
use crate::kinds::manifest;
use crate::lifecycle::simulation::{Step, play};
use crate::limits;
use crate::models::reference::ModelRef;
use crate::models::transfer::record;
use crate::process::record::Record;

pub use crate::http::check_pieces as conn;

/// Steps of one simulation: the fuzzer's inputs stay small enough to be many.
const STEPS_MAX: usize = 300;

/// Bytes as incidents of a fleet, four each; the first eight are the seed.
///
/// # Panics
/// If an invariant is broken.
pub fn fleet(bytes: &[u8]) {
    let (seed, rest) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let (steps, _) = rest.as_chunks();
    let steps: Vec<Step> = steps.iter().take(STEPS_MAX).map(|step| Step(*step)).collect();
    if let Err(broken) = play(u64::from_le_bytes(*seed), &steps) {
        panic!("{broken}");
    }
}

/// Bytes as method, path and query, one a line.
///
/// # Panics
/// If an id comes out that no worker can have.
pub fn route(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let method = lines.next().unwrap_or_default().parse().unwrap_or(Method::Get);
    let (path, query) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Ok((_, Route::Worker(id) | Route::Stop { id, .. } | Route::Logs { id, .. })) =
        find_route(&method, path, query)
    {
        assert!(path.contains(id.as_str()), "an id comes from the path");
    }
}

/// Bytes as the record of a worker.
///
/// # Panics
/// If a record does not read the same once it is written.
pub fn worker_record(bytes: &[u8]) {
    if let Ok(record) = Record::parse(bytes) {
        assert_eq!(Record::parse(&record.to_json()), Ok(record), "it reads as it is written");
    }
}

/// Bytes as heartbeats, one a line, heard one after the other.
///
/// # Panics
/// If one does not read the same once it is written, or what is known of a boot gets older.
pub fn heartbeat(bytes: &[u8]) {
    let mut realm = Realm::default();
    for heartbeat in bytes.split(|byte| *byte == b'\n').filter_map(|line| Heartbeat::parse(line).ok()) {
        let written = serde_json::to_vec(&heartbeat).expect("wire types are valid JSON");
        assert_eq!(Heartbeat::parse(&written).as_ref(), Ok(&heartbeat), "it reads as it is written");
        let id = heartbeat.hive_id.clone();
        let last = |realm: &Realm| realm.hive(&id).map(|known| (known.boot_id.clone(), known.sequence));
        let before = last(&realm);
        realm.hear(heartbeat);
        if let (Some((boot, sequence)), Some((boot_now, sequence_now))) = (before, last(&realm)) {
            assert!(boot != boot_now || sequence <= sequence_now, "a boot is not heard backwards");
        }
    }
}

/// Bytes as a model reference.
///
/// # Panics
/// If a reference does not read the same once it is written, or leads out of where it may.
pub fn model_ref(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = text.parse::<ModelRef>() {
        let written = reference.to_string();
        assert!(!written.contains(".."), "no reference leads upwards");
        assert_eq!(written.parse().as_ref(), Ok(&reference), "it reads as it is written");
    }
}

/// Bytes as what the hub sends: pages of JSON, locations, ranges, links, times.
///
/// # Panics
/// If a path leads out of its folder, an address reads otherwise than it is written, or a bound is not kept.
pub fn hub(bytes: &[u8]) {
    crate::models::hub::check(bytes);
}

/// Bytes as a kind's manifest.
///
/// # Panics
/// If the parser does.
pub fn kind_manifest(bytes: &[u8]) {
    if let Ok(kind) = manifest::parse(bytes) {
        assert!(manifest::is_kind_name(&kind.name), "a kind has a kind's name");
    }
}

/// Places at which a header that was accepted is cut: as many as a fuzzer's time allows.
const CUTS: usize = 16;

/// Bytes as a GGUF.
///
/// # Panics
/// If the reader does; if what it takes contradicts itself, is larger than it may be or reads otherwise in pieces;
/// if a header is taken that is not all there; or if a fault is nothing to show to a person.
pub fn gguf(bytes: &[u8]) {
    let whole = gguf::read(&mut &*bytes);
    let pieces = gguf::read(&mut Drip(bytes));
    let header = match (whole, pieces) {
        (Ok(header), Ok(again)) => {
            assert_eq!((&header.tensors, header.file_bytes()), (&again.tensors, again.file_bytes()));
            header
        }
        (whole, pieces) => {
            let (fault, again) = (whole.err(), pieces.err());
            assert_eq!(fault, again, "it reads the same in pieces");
            return check_shown(&fault.expect("one is an error").to_string());
        }
    };
    assert!(header.tensors.len() as u64 <= limits::GGUF_TENSORS_MAX);
    assert!(header.read_bytes <= bytes.len() as u64 && header.read_bytes <= header.data_offset);
    let mut end = 0_u64;
    for tensor in &header.tensors {
        assert_eq!(tensor.offset, end.next_multiple_of(header.alignment.into()), "tensors follow each other");
        assert!((1..=4).contains(&tensor.shape.len()));
        let numbers: u128 = tensor
            .shape
            .iter()
            .map(|size| u128::from(*size))
            .try_fold(1, u128::checked_mul)
            .unwrap_or_default(); // huge, times nothing
        let blocks = numbers / u128::from(tensor.kind.block());
        assert_eq!(u128::from(tensor.bytes), blocks * u128::from(tensor.kind.block_bytes()));
        end = tensor.offset + tensor.bytes;
    }
    assert_eq!(header.file_bytes(), header.data_offset + end);
    let read = usize::try_from(header.read_bytes).expect("no more than there was");
    for cut in (0..read).rev().step_by(1 + read / CUTS) {
        assert_eq!(gguf::read(&mut &bytes[..cut]), Err(gguf::Fault::Truncated), "cut at {cut}");
    }
}

/// Bytes as a safetensors file.
///
/// # Panics
/// As for [`gguf`].
pub fn safetensors(bytes: &[u8]) {
    let length = bytes.len() as u64;
    for file_bytes in [length, u64::MAX] {
        let whole = safetensors::read(&mut &*bytes, file_bytes);
        assert_eq!(whole, safetensors::read(&mut Drip(bytes), file_bytes), "it reads the same in pieces");
        let header = match whole {
            Ok(header) => header,
            Err(fault) => {
                check_shown(&fault.to_string());
                continue;
            }
        };
        assert!(header.tensors <= limits::SAFETENSORS_TENSORS_MAX);
        assert_eq!(header.data_offset + header.bytes, file_bytes);
        assert_eq!(header.bytes_by_dtype.values().sum::<u64>(), header.bytes);
        let read = usize::try_from(header.data_offset).expect("no more than there was");
        for cut in (0..read).rev().step_by(1 + read / CUTS) {
            let fault = safetensors::read(&mut &bytes[..cut], file_bytes);
            assert_eq!(fault, Err(safetensors::Fault::Truncated), "cut at {cut}");
        }
    }
}

/// Bytes as a stream of events.
///
/// # Panics
/// If it reads otherwise in pieces, or an event is larger than it may be.
pub fn sse(bytes: &[u8]) {
    let parsed = |size: usize| {
        let (mut parser, mut events) = (sse::Parser::default(), VecDeque::new());
        let wrong = bytes.chunks(size).find_map(|piece| parser.on_bytes(piece, &mut events).err());
        (events, wrong)
    };
    let whole = parsed(bytes.len().max(1));
    assert_eq!(whole, parsed(1), "it reads the same in pieces");
    let is_small = |event: &sse::Event| event.data.len() <= limits::CLIENT_EVENT_BYTES_MAX;
    assert!(whole.0.iter().all(is_small));
}

/// Bytes as the record of a partial file.
///
/// # Panics
/// If the reader does; if what it takes has gaps that are not in the file, too many, or not in order.
pub fn record(bytes: &[u8]) {
    let Some((file_bytes, gaps)) = record::read(bytes) else { return };
    assert!(file_bytes <= limits::HUB_FILE_BYTES_MAX && gaps.len() <= limits::GAPS_MAX);
    let borders: Vec<u64> = gaps.iter().flat_map(|gap| [gap.start, gap.end]).collect();
    assert!(borders.is_sorted_by(|a, b| a < b) && borders.iter().all(|at| *at <= file_bytes));
}

/// Bytes as a tar with a kind.
///
/// # Panics
/// If unpacking it leaves its folder.
pub fn archive(bytes: &[u8]) {
    crate::kinds::provision::check_unpack(bytes);
}

/// What may stand in an answer and in a log line as it is.
fn check_shown(message: &str) {
    assert!(message.len() < 200 && message.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{message:?}");
}

/// Gives its bytes one by one.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 13] = [
        ("conn", conn),
        ("fleet", fleet),
        ("route", route),
        ("model_ref", model_ref),
        ("hub", hub),
        ("kind_manifest", kind_manifest),
        ("gguf", gguf),
        ("safetensors", safetensors),
        ("sse", sse),
        ("record", record),
        ("archive", archive),
        ("worker_record", worker_record),
        ("heartbeat", heartbeat),
    ];

    #[test]
    fn the_kept_corpus_finds_nothing() {
        for (name, target) in TARGETS {
            let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder} is empty");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn no_bytes_break_a_target(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }
    }
}
