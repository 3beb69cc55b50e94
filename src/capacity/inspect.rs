//! Reads what decides a model's need of memory from its files' headers, and remembers it while the files
//! stay the same.

use std::collections::VecDeque;
use std::fmt;
use std::fs::Metadata;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::model::{self, Model};
use super::{config_json, gguf, safetensors};
use crate::limits::INSPECTED_MODELS_MAX;
use crate::models::cache::{Format, Found};
use crate::models::open_regular;
use crate::models::remote::{Digest, RemoteFile};
use crate::models::selection::Selection;

/// Why files are no model. The message is for whoever asked: no path is in it.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A GGUF that is none.
    Gguf(gguf::Fault),
    /// A safetensors file that is none.
    Safetensors(safetensors::Fault),
    /// `config.json` is not what a model has.
    Config(config_json::Fault),
    /// The headers are whole, and say what no model can be.
    Model(model::Fault),
    /// The file ends before its last tensor.
    Cut {
        /// How long it is.
        bytes: u64,
        /// How long it would have to be.
        needed: u64,
    },
    /// It cannot be read.
    Unreadable(ErrorKind),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gguf(fault) => fault.fmt(f),
            Self::Safetensors(fault) => fault.fmt(f),
            Self::Config(fault) => fault.fmt(f),
            Self::Model(fault) => fault.fmt(f),
            Self::Cut { bytes, needed } => {
                write!(f, "the file is truncated: it has {bytes} of {needed} bytes")
            }
            Self::Unreadable(kind) => write!(f, "the model cannot be read: {kind}"),
        }
    }
}

impl std::error::Error for Fault {}

/// Reads models, each once.
#[derive(Debug, Default)]
pub struct Inspector {
    /// The last one used at the end.
    known: Mutex<VecDeque<(Identity, Arc<Model>)>>,
}

/// What changes if a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// What a model is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    Local(Vec<Stamp>),
    /// The files' digests: they say all.
    Remote(Vec<Digest>),
}

impl Inspector {
    /// The model that `found` is; from memory if its files have not changed since they were read.
    ///
    /// # Errors
    /// The first thing that is wrong with its files.
    pub fn inspect(&self, found: &Found) -> Result<Arc<Model>, Fault> {
        self.remembered(identity(found)?, || read(found))
    }

    /// The model that `selection` is, from the beginnings of its files on the hub, each opened by `open`.
    ///
    /// # Errors
    /// As [`Inspector::inspect`]; that a reader failed, `open` has to remember.
    pub fn inspect_remote<'a>(
        &self,
        selection: &Selection,
        open: impl FnMut(&RemoteFile) -> io::Result<Box<dyn Read + 'a>>,
    ) -> Result<Arc<Model>, Fault> {
        let identity = Identity::Remote(selection.files.iter().map(|file| file.digest).collect());
        self.remembered(identity, || read_remote(selection, open))
    }

    fn remembered(
        &self,
        identity: Identity,
        read: impl FnOnce() -> Result<Model, Fault>,
    ) -> Result<Arc<Model>, Fault> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(other, _)| *other == identity) {
            let (_, model) = known.remove(at).expect("it was just found there");
            known.push_back((identity, Arc::clone(&model)));
            return Ok(model);
        }
        drop(known); // others need not wait for this disk, or for the hub
        let model = Arc::new(read()?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| *other != identity);
        if known.len() >= INSPECTED_MODELS_MAX {
            known.pop_front();
        }
        known.push_back((identity, Arc::clone(&model)));
        Ok(model)
    }
}

fn identity(found: &Found) -> Result<Identity, Fault> {
    let config = (found.format == Format::Safetensors).then(|| found.path.join("config.json"));
    let files = found.weights.iter().chain(config.as_ref().filter(|path| path.is_file()));
    let stamps = files.map(|path| Ok(stamp(path, &std::fs::metadata(path).map_err(unreadable)?)));
    stamps.collect::<Result<_, _>>().map(Identity::Local)
}

fn stamp(path: &Path, metadata: &Metadata) -> Stamp {
    Stamp {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn read(found: &Found) -> Result<Model, Fault> {
    match found.format {
        Format::Gguf => {
            let headers: Result<Vec<_>, Fault> = found.weights.iter().map(|path| read_gguf(path)).collect();
            Model::from_gguf(&headers?).map_err(Fault::Model)
        }
        Format::Safetensors => {
            let mut bytes = 0u64;
            for path in &found.weights {
                let mut file = open_regular(path).map_err(unreadable)?;
                let length = file.metadata().map_err(unreadable)?.len();
                let header = safetensors::read(&mut file, length).map_err(Fault::Safetensors)?;
                bytes = bytes.saturating_add(header.bytes);
            }
            let folder = if found.path.is_dir() { Some(found.path.as_path()) } else { found.path.parent() };
            let path = folder.unwrap_or(&found.path).join("config.json");
            let mut file = open_regular(&path).map_err(unreadable)?;
            let config = config_json::read(&mut file).map_err(Fault::Config)?;
            Model::from_safetensors(bytes, &config).map_err(Fault::Model)
        }
    }
}

/// As [`read`], from the hub: a GGUF's header says where its last tensor ends, the hub how long it is.
fn read_remote<'a>(
    selection: &Selection,
    mut open: impl FnMut(&RemoteFile) -> io::Result<Box<dyn Read + 'a>>,
) -> Result<Model, Fault> {
    match selection.format {
        Format::Gguf => {
            let mut headers = Vec::new();
            for file in selection.weight_files() {
                let header = gguf::read(&mut open(file).map_err(unreadable)?).map_err(Fault::Gguf)?;
                let (bytes, needed) = (file.bytes, header.file_bytes());
                if bytes < needed {
                    return Err(Fault::Cut { bytes, needed });
                }
                headers.push(header);
            }
            Model::from_gguf(&headers).map_err(Fault::Model)
        }
        Format::Safetensors => {
            let mut bytes = 0u64;
            for file in selection.weight_files() {
                let header = safetensors::read(&mut open(file).map_err(unreadable)?, file.bytes)
                    .map_err(Fault::Safetensors)?;
                bytes = bytes.saturating_add(header.bytes);
            }
            let config = selection.files.iter().find(|file| file.path == "config.json");
            let config = config.ok_or(Fault::Unreadable(ErrorKind::NotFound))?;
            let config = config_json::read(&mut open(config).map_err(unreadable)?).map_err(Fault::Config)?;
            Model::from_safetensors(bytes, &config).map_err(Fault::Model)
        }
    }
}

fn read_gguf(path: &Path) -> Result<gguf::Header, Fault> {
    let mut file = open_regular(path).map_err(unreadable)?;
    let header = gguf::read(&mut file).map_err(Fault::Gguf)?;
    let (bytes, needed) = (file.metadata().map_err(unreadable)?.len(), header.file_bytes());
    if bytes < needed { Err(Fault::Cut { bytes, needed }) } else { Ok(header) }
}

fn unreadable(error: std::io::Error) -> Fault {
    Fault::Unreadable(error.kind())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::gguf::TensorType;
    use crate::capacity::gguf::writer::Writer;

    fn found(paths: &[PathBuf]) -> Found {
        Found { path: paths[0].clone(), format: Format::Gguf, weights: paths.to_vec() }
    }

    /// A shard with `rows` rows of 64 bytes.
    fn shard(rows: u64) -> Vec<u8> {
        let writer =
            Writer::model("llama").number("llama.block_count", 1).number("llama.embedding_length", 32);
        let mut bytes = writer.tensor("w", TensorType::F16, &[32, rows]).header();
        bytes.resize(bytes.len().next_multiple_of(32) + 64 * rows as usize, 0);
        bytes
    }

    #[test]
    fn a_model_is_read_once_until_its_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, shard(1)).unwrap();
        let inspector = Inspector::default();
        let first = inspector.inspect(&found(std::slice::from_ref(&path))).unwrap();
        let again = inspector.inspect(&found(std::slice::from_ref(&path))).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        std::fs::write(&path, shard(2)).unwrap();
        assert_ne!(inspector.inspect(&found(&[path])).unwrap(), first);
        for n in 0..=INSPECTED_MODELS_MAX {
            let path = dir.path().join(n.to_string());
            std::fs::write(&path, shard(1)).unwrap();
            inspector.inspect(&found(&[path])).unwrap();
        }
        assert_eq!(inspector.known.lock().unwrap().len(), INSPECTED_MODELS_MAX);
    }

    #[test]
    fn all_shards_count_and_each_must_be_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["1", "2"].map(|name| dir.path().join(name));
        std::fs::write(&paths[0], shard(1)).unwrap();
        std::fs::write(&paths[1], shard(3)).unwrap();
        let inspector = Inspector::default();
        let weights = |paths: &[PathBuf]| inspector.inspect(&found(paths)).map(|model| model.weights_bytes());
        assert_eq!((weights(&paths[..1]), weights(&paths)), (Ok(64), Ok(256)));
        let cut = shard(3).len() - 1;
        std::fs::write(&paths[1], &shard(3)[..cut]).unwrap();
        let fault = Fault::Cut { bytes: cut as u64, needed: cut as u64 + 1 };
        assert_eq!(weights(&paths), Err(fault.clone()));
        assert_eq!(fault.to_string(), format!("the file is truncated: it has {cut} of {} bytes", cut + 1));
    }
}
