//! The hub's JSON: a revision's commit, and pages of its files. Pure; nothing of it is trusted.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::id::unhex;
use crate::limits::{HUB_FILE_BYTES_MAX, HUB_FILES_MAX, HUB_PATH_BYTES_MAX};
use crate::models::remote::{Digest, HubError, RemoteFile};

/// Characters of a commit's name.
const COMMIT_BYTES_MAX: usize = 64;

/// Files as the pages of a list bring them.
#[derive(Debug, Default)]
pub(super) struct Files {
    files: Vec<RemoteFile>,
    /// Entries so far, those that are no files included.
    seen: usize,
}

/// The commit in the hub's answer about a revision.
///
/// # Errors
/// [`HubError::BadAnswer`] if it is not there, or no plain word.
pub(super) fn commit(json: &[u8]) -> Result<String, HubError> {
    #[derive(Deserialize)]
    struct Info {
        sha: String,
    }
    let Info { sha } = serde_json::from_slice(json).map_err(|_| NOT_JSON)?;
    let is_word =
        (1..=COMMIT_BYTES_MAX).contains(&sha.len()) && sha.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_word { Ok(sha) } else { Err(HubError::BadAnswer("its commit is no commit")) }
}

const NOT_JSON: HubError = HubError::BadAnswer("not the JSON of a hub");

impl Files {
    /// Takes the files of a page. One that is not fit for a disk (its path leads elsewhere, it is too long or has no
    /// name of its bytes) is left out.
    ///
    /// # Errors
    /// [`HubError::BadAnswer`] if it is no list of files, or there are too many.
    pub(super) fn add(&mut self, json: &[u8]) -> Result<(), HubError> {
        let mut page = serde_json::Deserializer::from_slice(json);
        let added = Page(self).deserialize(&mut page).and_then(|()| page.end());
        match added {
            _ if self.seen > HUB_FILES_MAX => {
                Err(HubError::BadAnswer("it lists more files than a model has"))
            }
            added => added.map_err(|_| NOT_JSON),
        }
    }

    /// All of them, sorted by path, each path once.
    pub(super) fn finish(self) -> Vec<RemoteFile> {
        let mut files = self.files;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        files
    }
}

/// Reads a page without keeping more of it than its files.
struct Page<'a>(&'a mut Files);

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl<'de> DeserializeSeed<'de> for Page<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Page<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        loop {
            if self.0.seen == HUB_FILES_MAX {
                if entries.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(());
                }
                self.0.seen += 1;
                return Err(A::Error::custom("too many files"));
            }
            let Some(entry) = entries.next_element::<Entry>()? else { return Ok(()) };
            self.0.seen += 1;
            self.0.files.extend(entry.file());
        }
    }
}

impl Entry {
    fn file(self) -> Option<RemoteFile> {
        let (bytes, digest) = match self.lfs {
            Some(lfs) => (lfs.size, Digest::Sha256(unhex(&lfs.oid)?)),
            None => (self.size?, Digest::GitBlob(unhex(&self.oid?)?)),
        };
        let good = self.kind == "file" && bytes <= HUB_FILE_BYTES_MAX && is_path(&self.path);
        good.then_some(RemoteFile { path: self.path, bytes, digest })
    }
}

/// Whether `path` is what [`RemoteFile::path`] says.
fn is_path(path: &str) -> bool {
    path.len() <= HUB_PATH_BYTES_MAX
        && !path.contains(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(page: &str) -> Result<Vec<RemoteFile>, HubError> {
        let mut files = Files::default();
        files.add(page.as_bytes())?;
        Ok(files.finish())
    }

    fn entry(path: &str) -> String {
        let path = serde_json::to_string(path).unwrap();
        format!(r#"{{"type":"file","path":{path},"size":5,"oid":"{}"}}"#, "0a".repeat(20))
    }

    #[test]
    fn a_page_is_read_as_the_hub_writes_it() {
        let large = format!(
            r#"{{"type":"file","oid":"{}","size":134,"path":"q/m.gguf","lfs":{{"oid":"{}","size":98362432,"pointerSize":134}},"xetHash":"x"}}"#,
            "1b".repeat(20),
            "AB".repeat(32),
        );
        let page = format!(
            r#"[{large},{{"type":"directory","path":"q","size":0,"oid":"00"}},{}]"#,
            entry("config.json")
        );
        let expected = [
            RemoteFile { path: "config.json".into(), bytes: 5, digest: Digest::GitBlob([0x0a; 20]) },
            RemoteFile { path: "q/m.gguf".into(), bytes: 98_362_432, digest: Digest::Sha256([0xab; 32]) },
        ];
        assert_eq!(files(&page).unwrap(), expected);
    }

    #[test]
    fn a_file_that_is_not_fit_for_a_disk_is_left_out() {
        let long = "x".repeat(HUB_PATH_BYTES_MAX + 1);
        for path in ["", "/etc/passwd", "a//b", "a/../b", "..", ".", "a/.", "a/", "a\nb", "a\u{85}", &long] {
            assert_eq!(files(&format!("[{}]", entry(path))), Ok(vec![]), "{path:?}");
        }
        for path in ["a..b", ".gitattributes", "ü/ö.json", "a\\b"] {
            assert_eq!(files(&format!("[{}]", entry(path))).unwrap().len(), 1, "{path:?}");
        }
        let huge = entry("f").replace("\"size\":5", &format!("\"size\":{}", HUB_FILE_BYTES_MAX + 1));
        assert_eq!(files(&format!("[{huge}]")), Ok(vec![]));
        assert_eq!(files(&format!("[{}]", entry("f").replace("0a0a", "0a"))), Ok(vec![]));
        assert_eq!(files(&format!("[{}, {}]", entry("f"), entry("f"))).unwrap().len(), 1, "each path once");
    }

    #[test]
    fn what_is_no_page_is_said() {
        let pages = ["", "<!DOCTYPE html>", "{}", "null", "[1]", r#"[{"path":"f"}]"#, "[", "[] []"];
        for page in pages.into_iter().chain([r#"[{"type":"file","path":"f","size":-1,"oid":""}]"#]) {
            assert_eq!(files(page), Err(NOT_JSON), "{page}");
        }
    }

    #[test]
    fn a_list_without_an_end_has_one() {
        let mut all = Files::default();
        let page = format!("[{}]", vec![entry("f"); HUB_FILES_MAX].join(","));
        assert_eq!(all.add(page.as_bytes()), Ok(()));
        assert_eq!(all.add(b"[]"), Ok(()));
        let added = all.add(format!("[{}]", entry("f")).as_bytes());
        assert_eq!(added, Err(HubError::BadAnswer("it lists more files than a model has")));
    }

    #[test]
    fn a_commit_is_one_plain_word() {
        assert_eq!(commit(br#"{"sha":"0123abc","siblings":[{"rfilename":"f"}]}"#), Ok("0123abc".into()));
        for wrong in
            [r#"{"sha":""}"#, r#"{"sha":"../x"}"#, r#"{"sha":"."}"#, r#"{"sha":1}"#, "{}", "[]", "<html>"]
        {
            assert!(matches!(commit(wrong.as_bytes()), Err(HubError::BadAnswer(_))), "{wrong}");
        }
        assert!(commit(format!(r#"{{"sha":"{}"}}"#, "a".repeat(65)).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_page_breaks_it_or_leads_out_of_a_folder(
            paths in prop::collection::vec("[a./\\PC]{0,12}", 0..6),
            cut in 0_usize..900,
        ) {
            let page = format!("[{}]", paths.iter().map(|path| entry(path)).collect::<Vec<_>>().join(","));
            let found = files(&page).unwrap();
            for file in &found {
                prop_assert!(paths.contains(&file.path) && !file.path.split('/').any(|part| part == ".."));
            }
            prop_assert!(found.is_sorted_by(|a, b| a.path < b.path));
            if let Some(part) = page.get(..cut.min(page.len() - 1)) {
                prop_assert_eq!(files(part), Err(NOT_JSON));
            }
        }
    }
}
