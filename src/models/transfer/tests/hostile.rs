//! Random misfortune, and kills at random moments: the right bytes or an error, never a wrong blob, and nothing
//! but what was under way is fetched again.

use std::sync::Mutex;

use proptest::prelude::*;

use super::shelf::{End, Script, Shelf, WELL, bytes, sha256};
use super::*;
use crate::limits::TRANSFER_CONNECTIONS_MAX;

/// What may be fetched again after a kill.
const LOST_BYTES_MAX: u64 = 8 * MIB as u64;

fn image(from: &Cache, to: &Cache, file: &RemoteFile, all: &[u8]) {
    // The record first: what it says is then in the bytes, as after a kill. The name without holes before the
    // other, which it may become meanwhile.
    for path in [Repository::record, Repository::partial, Repository::partial_with_holes] {
        match fs::read(path(&from.repository, &file.digest)) {
            Ok(bytes) => fs::write(path(&to.repository, &file.digest), bytes).unwrap(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }
    let plain = to.repository.partial(&file.digest);
    if let Ok(bytes) = fs::read(&plain) {
        assert!(all.starts_with(&bytes), "others would go on after a hole");
        if to.repository.partial_with_holes(&file.digest).exists() {
            fs::remove_file(plain).unwrap();
        }
    }
}

/// One answer of a server that is not well.
fn script() -> impl Strategy<Value = Result<Script, HubError>> {
    let end = prop_oneof![
        Just(End::Eof),
        Just(End::Fails(ErrorKind::ConnectionReset)),
        Just(End::Fails(ErrorKind::TimedOut)),
    ];
    let body = (
        proptest::bool::weighted(0.9),
        0..6 * MIB as u64,
        end,
        proptest::bool::weighted(0.1),
        1..300_000_usize,
    );
    prop_oneof![
        3 => Just(Ok(WELL)),
        6 => body.prop_map(|(ranges, bytes, end, corrupt, chunk)| {
            Ok(Script { ranges, bytes, end, corrupt, chunk: chunk.max(1000) })
        }),
        1 => Just(Err(HubError::Stalled)),
        1 => Just(Err(HubError::Busy { status: 503, retry_after: Some(Duration::ZERO) })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_kill_at_any_moment_costs_at_most_what_was_under_way(
        length in 1..24 * MIB,
        lines in 1..=TRANSFER_CONNECTIONS_MAX,
        moments in proptest::collection::vec(0.0..1.0, 1..4),
        chunk in 10_000..500_000_usize,
    ) {
        let all = bytes(length);
        let file = sha256(&all);
        let mut cache = Cache::with_lines(lines);
        for moment in moments {
            let next = Cache::with_lines(lines);
            let here = cache.meter.bytes.load(Relaxed);
            let kill_at = ((file.bytes - here) as f64 * moment) as u64;
            let killed = Mutex::new(None);
            let mut shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(Script { chunk, ..WELL }));
            shelf.watch = Box::new(|given| {
                let mut killed = killed.lock().unwrap();
                if given > kill_at && killed.is_none() {
                    image(&cache, &next, &file, &all);
                    *killed = Some(given);
                    cache.cut.cut();
                }
            });
            let _ = cache.fetch(&shelf, &file);
            drop(shelf);
            let given = killed.into_inner().unwrap().unwrap_or_default();
            let (_, gaps) = partial::Partial::open(&next.repository, &file).unwrap();
            let left: u64 = gaps.iter().map(|gap| gap.end - gap.start).sum();
            prop_assert!(left + given <= file.bytes - here + LOST_BYTES_MAX, "{left} + {given} of {length}");
            next.meter.bytes.store(file.bytes - left, Relaxed);
            cache = next;
        }
        let left = file.bytes - cache.meter.bytes.load(Relaxed);
        let shelf = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
        prop_assert_eq!(cache.fetch(&shelf, &file), Ok(()));
        cache.expect_only(&all, &file);
        prop_assert_eq!(shelf.given(), left);
    }

    #[test]
    fn misfortune_ends_with_the_right_bytes_or_an_error(
        length in 1..12 * MIB,
        lines in 1..=TRANSFER_CONNECTIONS_MAX,
        scripts in proptest::collection::vec(script(), 1..20),
    ) {
        let (cache, all) = (Cache::with_lines(lines), bytes(length));
        let file = sha256(&all);
        let shelf = Shelf::new(&all, &cache.cut, |nth, _| scripts[nth % scripts.len()]);
        match cache.fetch(&shelf, &file) {
            Ok(()) => cache.expect_only(&all, &file),
            Err(TransferError::Corrupt) => prop_assert_eq!(cache.blobs().len(), 0),
            Err(TransferError::Hub(error)) => {
                prop_assert!(error.is_passing(), "{error:?}");
                prop_assert!(!cache.repository.blob(&file.digest).exists());
                // What is there is resumed once the server is well; it may have been wrong.
                let well = Shelf::new(&all, &cache.cut, |_, _| Ok(WELL));
                prop_assert_eq!(cache.fetch(&well, &file), Ok(()));
                cache.expect_only(&all, &file);
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}
