//! Model references: `hf:org/repo[:QUANT|:path/file.gguf][@revision]` or `file:/path`.
//!
//! Parsing is pure; [`ModelRef`] cannot hold a text that leads out of a folder. `Display` writes the
//! canonical form, which parses to the same reference.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::limits::MODEL_REF_BYTES_MAX;

/// Characters of an organisation's and of a repository's name, as the hub has it.
const NAME_BYTES_MAX: usize = 96;
/// Characters of a quantisation's name; the longest in use have 12.
const QUANT_BYTES_MAX: usize = 32;

/// A model as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelRef {
    /// A repository of the Hugging Face hub.
    Hub(HubRef),
    /// A file of this machine, by its absolute path.
    File(FileRef),
}

/// A repository and what is meant in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubRef {
    org: String,
    repo: String,
    pick: Pick,
    revision: Option<String>,
}

/// Which file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pick {
    /// Whatever suits best.
    Any,
    /// The GGUF of this quantisation, in any case.
    Quant(String),
    /// This GGUF, by its path in the repository.
    File(String),
}

/// An absolute path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileRef(String);

impl HubRef {
    /// The organisation or user.
    pub fn org(&self) -> &str {
        &self.org
    }

    /// The repository, without its organisation.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// What is meant in it.
    pub fn pick(&self) -> &Pick {
        &self.pick
    }

    /// Branch, tag or commit; `main` where none is given.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Branch, tag or commit, if one is given.
    pub fn given_revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The same repository and revision with something else meant in it.
    #[must_use]
    pub fn with_pick(&self, pick: Pick) -> Self {
        Self { pick, ..self.clone() }
    }

    /// The repository's folder in the cache: `models--org--repo`.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.repo)
    }
}

impl FileRef {
    /// The path as it was given; whether it may be read is for [`super::find`] to say.
    pub fn path(&self) -> &Path {
        Path::new(&self.0)
    }
}

/// What is wrong with a text that is no [`ModelRef`]; does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAModelRef {
    /// Over [`MODEL_REF_BYTES_MAX`] characters.
    TooLong,
    /// A control or non-ASCII character, or a backslash.
    Character,
    /// `..`, wherever it stands.
    DotDot,
    /// Neither `hf:` nor `file:`.
    Scheme,
    /// Not `org/repo` as the hub has it.
    Repository,
    /// Neither a quantisation nor the path of a GGUF.
    Pick,
    /// No name of a branch, tag or commit.
    Revision,
    /// The path after `file:` is not absolute.
    Path,
}

impl fmt::Display for NotAModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a model reference has at most {MODEL_REF_BYTES_MAX} characters"),
            Self::Character => f.write_str("a model reference has no control or non-ASCII character and no backslash"),
            Self::DotDot => f.write_str("a model reference has no `..`"),
            Self::Scheme => f.write_str("a model reference begins with `hf:` or `file:`"),
            Self::Repository => f.write_str(
                "a repository is `org/repo`, each of at most 96 characters of A-Z, a-z, 0-9, `.`, `_` and `-`, \
                 neither beginning nor ending with `.` or `-`, without `--`, and not ending with `.git`",
            ),
            Self::Pick => f.write_str("what follows the repository's `:` is a quantisation like `Q4_K_M` or the path of a .gguf file"),
            Self::Revision => f.write_str("what follows `@` is a branch, a tag or a commit"),
            Self::Path => f.write_str("what follows `file:` is an absolute path"),
        }
    }
}

impl std::error::Error for NotAModelRef {}

impl FromStr for ModelRef {
    type Err = NotAModelRef;

    fn from_str(text: &str) -> Result<Self, NotAModelRef> {
        if text.len() > MODEL_REF_BYTES_MAX {
            return Err(NotAModelRef::TooLong);
        }
        if !text.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && b != b'\\') {
            return Err(NotAModelRef::Character);
        }
        if text.contains("..") {
            return Err(NotAModelRef::DotDot);
        }
        match text.split_once(':') {
            Some(("hf" | "HF", rest)) => hub(rest).map(Self::Hub),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(FileRef(path.to_owned()))),
            Some(("file", _)) => Err(NotAModelRef::Path),
            _ => Err(NotAModelRef::Scheme),
        }
    }
}

fn hub(text: &str) -> Result<HubRef, NotAModelRef> {
    let (text, revision) = match text.split_once('@') {
        Some((text, revision)) if is_revision(revision) => (text, Some(revision.to_owned())),
        Some(_) => return Err(NotAModelRef::Revision),
        None => (text, None),
    };
    let (repository, pick) = match text.split_once(':') {
        Some((repository, word)) => (repository, pick(word)?),
        None => (text, Pick::Any),
    };
    match repository.split_once('/') {
        Some((org, repo)) if is_name(org) && is_name(repo) && !repo.ends_with(".git") => {
            Ok(HubRef { org: org.to_owned(), repo: repo.to_owned(), pick, revision })
        }
        _ => Err(NotAModelRef::Repository),
    }
}

fn pick(word: &str) -> Result<Pick, NotAModelRef> {
    if is_gguf(word) {
        let good = !word.contains(':') && word.split('/').all(|part| !part.is_empty() && part != ".");
        return if good { Ok(Pick::File(word.to_owned())) } else { Err(NotAModelRef::Pick) };
    }
    let good = (1..=QUANT_BYTES_MAX).contains(&word.len())
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.ends_with(|c: char| c.is_ascii_alphanumeric())
        && word.bytes().all(is_name_byte);
    if good { Ok(Pick::Quant(word.to_owned())) } else { Err(NotAModelRef::Pick) }
}

/// Whether a file name, or its path, ends like a GGUF's.
pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.as_bytes()[name.len() - 5..].eq_ignore_ascii_case(b".gguf")
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn is_name(name: &str) -> bool {
    let edge = |c: char| c == '.' || c == '-';
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(is_name_byte)
        && !name.starts_with(edge)
        && !name.ends_with(edge)
        && !name.contains("--")
}

fn is_revision(text: &str) -> bool {
    text.split('/')
        .all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && part.bytes().all(is_name_byte))
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(hub) => hub.fmt(f),
            Self::File(FileRef(path)) => write!(f, "file:{path}"),
        }
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.org, self.repo)?;
        match &self.pick {
            Pick::Any => {}
            Pick::Quant(word) | Pick::File(word) => write!(f, ":{word}")?,
        }
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub(text: &str) -> HubRef {
        match text.parse() {
            Ok(ModelRef::Hub(hub)) => hub,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_part_of_a_repository_is_read() {
        let plain = hub("HF:author/minillama");
        assert_eq!((plain.org(), plain.repo(), plain.revision()), ("author", "minillama", "main"));
        assert_eq!((plain.pick(), plain.to_string()), (&Pick::Any, "hf:author/minillama".to_owned()));
        assert_eq!(plain.folder(), "models--author--minillama");
        let quant = hub("hf:o/r-GGUF:q4_k_m@v1.0");
        assert_eq!((quant.pick(), quant.revision()), (&Pick::Quant("q4_k_m".to_owned()), "v1.0"));
        let file = hub("hf:o/r:Q8 dir/big model-00001-of-00002.GGUF@refs/pr/7");
        assert_eq!(file.pick(), &Pick::File("Q8 dir/big model-00001-of-00002.GGUF".to_owned()));
        assert_eq!(file.revision(), "refs/pr/7");
    }

    #[test]
    fn a_file_is_an_absolute_path() {
        let Ok(ModelRef::File(file)) = "file:/models/a b:c@d.gguf".parse() else {
            panic!("a good reference")
        };
        assert_eq!(file.path(), Path::new("/models/a b:c@d.gguf"));
        assert_eq!("file:models/x.gguf".parse::<ModelRef>(), Err(NotAModelRef::Path));
        assert_eq!("file:".parse::<ModelRef>(), Err(NotAModelRef::Path));
    }

    #[test]
    fn what_is_no_reference_is_refused_for_its_reason() {
        use NotAModelRef as No;
        let long = format!("hf:o/r:{}.gguf", "x".repeat(MODEL_REF_BYTES_MAX));
        let wide = format!("hf:o/{}", "x".repeat(NAME_BYTES_MAX + 1));
        for (text, reason) in [
            (long.as_str(), No::TooLong),
            (wide.as_str(), No::Repository),
            ("", No::Scheme),
            ("org/repo", No::Scheme),
            ("http://x/y", No::Scheme),
            ("Hf:o/r", No::Scheme),
            ("FILE:/x", No::Scheme),
            ("hf:o/r\n", No::Character),
            ("hf:o/ré", No::Character),
            ("file:/a\\b", No::Character),
            ("hf:o/r\0", No::Character),
            ("file:/m/../etc/passwd", No::DotDot),
            ("hf:o/a..b", No::DotDot),
            ("hf:../r", No::DotDot),
            ("hf:o/r@a..b", No::DotDot),
            ("hf:repo", No::Repository),
            ("hf:/r", No::Repository),
            ("hf:o/", No::Repository),
            ("hf:o/r/x", No::Repository),
            ("hf:-o/r", No::Repository),
            ("hf:o/r-", No::Repository),
            ("hf:o/.r", No::Repository),
            ("hf:o/a--b", No::Repository),
            ("hf:o/r.git", No::Repository),
            ("hf:o/a b", No::Repository),
            (" hf:o/r", No::Scheme),
            ("hf:o/r:", No::Pick),
            ("hf:o/r:a/b", No::Pick),
            ("hf:o/r:/x.gguf", No::Pick),
            ("hf:o/r:./x.gguf", No::Pick),
            ("hf:o/r:a:x.gguf", No::Pick),
            ("hf:o/r@", No::Revision),
            ("hf:o/r@a b", No::Revision),
            ("hf:o/r@/x", No::Revision),
            ("hf:o/r@v:Q4", No::Revision),
            ("hf:o/r@a@b", No::Revision),
            ("hf:o/r@.x", No::Revision),
        ] {
            assert_eq!(text.parse::<ModelRef>(), Err(reason), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_good_reference_reads_back_as_itself(
            text in "(hf|HF):[a-z0-9]{1,9}/[A-Za-z0-9_]{1,9}(:[A-Z0-9]{1,9}|:([a-z ]{1,5}/)?[a-z0-9-]{1,9}\\.gguf)?(@[a-z0-9]{1,9}(/[a-z0-9]{1,9})?)?|file:/[ -\\[\\]-~]{0,40}"
        ) {
            if let Ok(reference) = text.parse::<ModelRef>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            } else {
                prop_assert!(text.contains(".."), "{}", text);
            }
        }

        #[test]
        fn no_text_makes_it_panic_or_leads_out_of_a_folder(text in "(hf:|file:/)?\\PC{0,60}") {
            if let Ok(reference) = text.parse::<ModelRef>() {
                prop_assert!(!reference.to_string().contains(".."));
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }
    }
}
