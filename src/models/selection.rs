//! What of a repository is fetched for a reference, and where it will lie. Pure.

use std::fmt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::cache::Format;
use super::choose;
use super::layout::Repository;
use super::reference::{HubRef, Pick};
use super::remote::{RemoteFile, Revision};
use crate::id::{DownloadId, hex};
use crate::limits::SELECTION_FILES_MAX;

/// The files of one revision that make up a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// What was asked for.
    pub hub: HubRef,
    /// The commit that its revision is at.
    pub commit: String,
    /// What is to be fetched: small files before large ones, shards in their order.
    pub files: Vec<RemoteFile>,
    /// How many of `files`, the last ones, are weights.
    pub weights: usize,
    /// How it is stored.
    pub format: Format,
    /// Where the model is once all of them are there; as [`super::find`] gives it.
    pub path: PathBuf,
}

/// Why a revision has no model that is meant by a reference. For whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoModel {
    /// No GGUF of that quantisation or path; these quantisations are there.
    Gguf {
        /// What could be asked for instead.
        quants: Vec<String>,
    },
    /// It has neither a GGUF nor safetensors.
    Weights,
    /// Some of the files that make up the model are not there.
    Parts {
        /// How many of them.
        missing: usize,
        /// Of how many.
        of: usize,
    },
    /// Safetensors without `config.json`.
    Config,
    /// More files than a model has.
    TooMany,
}

impl fmt::Display for NoModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf { quants } if quants.is_empty() => f.write_str("the repository has no such GGUF"),
            Self::Gguf { quants } => {
                write!(f, "the repository has no such GGUF; there are {}", quants.join(", "))
            }
            Self::Weights => f.write_str("the repository has neither a GGUF nor safetensors"),
            Self::Parts { missing, of } => {
                write!(f, "{missing} of the model's {of} files are not in the repository")
            }
            Self::Config => f.write_str("the repository has safetensors without a config.json"),
            Self::TooMany => write!(f, "it would be more than {SELECTION_FILES_MAX} files"),
        }
    }
}

impl std::error::Error for NoModel {}

impl Selection {
    /// The files that `hub` means among those of `revision`: one GGUF with all its shards, else the safetensors
    /// with configuration and tokenizer.
    ///
    /// # Errors
    /// If there are none, or not all.
    pub fn new(model_dir: &Path, hub: &HubRef, revision: &Revision) -> Result<Self, NoModel> {
        let names: Vec<String> = revision.files.iter().map(|file| file.path.clone()).collect();
        let (weights, format) = match choose::gguf(&names, hub.pick()) {
            Ok(shards) => (shards, Format::Gguf),
            Err(none) if *hub.pick() != Pick::Any => return Err(NoModel::Gguf { quants: none.quants }),
            Err(_) => (choose::safetensors(&names), Format::Safetensors),
        };
        let has = |name: &str| names.binary_search_by(|other| other.as_str().cmp(name)).is_ok();
        if weights.is_empty() {
            return Err(NoModel::Weights);
        }
        if format == Format::Safetensors && !has("config.json") {
            return Err(NoModel::Config);
        }
        let (commit, of) = (revision.commit.clone(), weights.len());
        let found = |name: &String| revision.files.iter().find(|file| file.path == *name).cloned();
        let weights: Vec<RemoteFile> = weights.iter().filter_map(found).collect();
        if weights.len() < of {
            return Err(NoModel::Parts { missing: of - weights.len(), of });
        }
        let snapshot = Repository::new(model_dir, hub).snapshot(&commit);
        let (path, mut files) = match format {
            Format::Gguf => (snapshot.join(&weights[0].path), Vec::new()),
            Format::Safetensors => {
                let beside = revision.files.iter().filter(|file| choose::is_beside_weights(&file.path));
                (snapshot, beside.cloned().collect())
            }
        };
        let count = weights.len();
        files.extend(weights);
        if files.len() > SELECTION_FILES_MAX {
            return Err(NoModel::TooMany);
        }
        Ok(Self { hub: hub.clone(), commit, files, weights: count, format, path })
    }

    /// The name of its download: the same for the same files of the same commit, whoever asks.
    pub fn id(&self) -> DownloadId {
        let mut text = format!("{}@{}", self.hub.folder(), self.commit);
        self.files.iter().for_each(|file| text.push_str(&format!("\n{}", file.path)));
        DownloadId::of(&hex(&digest(&SHA256, text.as_bytes()).as_ref()[..8]))
    }

    /// The files with its weights, the first shard first.
    pub fn weight_files(&self) -> &[RemoteFile] {
        &self.files[self.files.len() - self.weights..]
    }

    /// All its files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::reference::ModelRef;
    use crate::models::remote::Digest;

    fn select(reference: &str, names: &[&str]) -> Result<Selection, NoModel> {
        let file = |name: &&str| RemoteFile {
            path: (*name).to_owned(),
            bytes: 10,
            digest: Digest::GitBlob([7; 20]),
        };
        let mut files: Vec<RemoteFile> = names.iter().map(file).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let Ok(ModelRef::Hub(hub)) = reference.parse() else { panic!("a good reference") };
        Selection::new(Path::new("/m"), &hub, &Revision { commit: "c0ffee".to_owned(), files })
    }

    fn names(selection: &Selection) -> Vec<&str> {
        selection.files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn a_gguf_is_fetched_alone_and_with_all_its_shards() {
        let all = ["README.md", "config.json", "m-Q8_0.gguf", "q/m-Q4_K_M-00001-of-00002.gguf"];
        let error = select("hf:o/r", &all).expect_err("a shard is missing");
        assert_eq!(error, NoModel::Parts { missing: 1, of: 2 });
        let one = select("hf:o/r:q8_0", &all).expect("it is there");
        assert_eq!((names(&one), one.weight_files().len(), one.bytes()), (vec!["m-Q8_0.gguf"], 1, 10));
        assert_eq!(one.path, Path::new("/m/models--o--r/snapshots/c0ffee/m-Q8_0.gguf"));
        let none = select("hf:o/r:Q2_K", &all).expect_err("there is none");
        assert_eq!(none.to_string(), "the repository has no such GGUF; there are Q4_K_M, Q8_0");
    }

    #[test]
    fn safetensors_come_with_configuration_and_tokenizer_and_nothing_else() {
        let all = [
            "README.md",
            "config.json",
            "merges.txt",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.model",
            "tokenizer_config.json",
        ];
        let chosen = select("hf:o/r@v1", &all).expect("it is whole");
        let beside = ["config.json", "merges.txt", "model.safetensors.index.json"];
        let weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let tokenizer = ["tokenizer.model", "tokenizer_config.json"];
        assert_eq!(names(&chosen), [&beside[..], &tokenizer[..], &weights[..]].concat());
        assert_eq!(chosen.path, Path::new("/m/models--o--r/snapshots/c0ffee"));
        assert_eq!(select("hf:o/r", &["model.safetensors"]), Err(NoModel::Config));
        assert_eq!(select("hf:o/r", &["README.md"]), Err(NoModel::Weights));
    }

    #[test]
    fn the_same_files_have_the_same_name_however_they_are_asked_for() {
        let all = ["m-Q4_K_M.gguf", "m-Q8_0.gguf"];
        let id = |reference| select(reference, &all).expect("it is there").id();
        assert_eq!(id("hf:o/r"), id("HF:o/r:q4_k_m@main"));
        assert_ne!(id("hf:o/r"), id("hf:o/r:Q8_0"));
        assert_ne!(id("hf:o/r"), id("hf:o/s"));
    }
}
