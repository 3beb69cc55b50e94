//! What the fuzz targets run, each a function over bytes that panics if something is broken. The tests below
//! run the same over the kept corpus and over random bytes.

use crate::http::Method;
use crate::http::route::{Route, route as find_route};
use crate::kinds::manifest;
use crate::lifecycle::simulation::{Step, play};
use crate::models::reference::ModelRef;

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
    if let Ok(Route::Worker(id) | Route::Stop { id, .. } | Route::Logs { id, .. }) =
        find_route(&method, path, query)
    {
        assert!(path.contains(id.as_str()), "an id comes from the path");
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

/// Bytes as a kind's manifest.
///
/// # Panics
/// If the parser does.
pub fn kind_manifest(bytes: &[u8]) {
    if let Ok(kind) = manifest::parse(bytes) {
        assert!(manifest::is_kind_name(&kind.name), "a kind has a kind's name");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 5] = [
        ("conn", conn),
        ("fleet", fleet),
        ("route", route),
        ("model_ref", model_ref),
        ("kind_manifest", kind_manifest),
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
