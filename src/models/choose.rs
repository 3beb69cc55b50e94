//! Which of a repository's files is meant. Pure: names in, names out.

use std::collections::BTreeSet;

use super::reference::{Pick, is_gguf};
use crate::limits::{SHARDS_MAX, SNAPSHOT_ENTRIES_MAX};

/// Quantisations that are taken where none is asked for, the better first.
const PREFERRED: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// A GGUF as it is loaded: its files, the first one first. One that is not split has one.
pub type Shards = Vec<String>;

/// No GGUF is what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchGguf {
    /// The quantisations there are, sorted; those that bear one in their name.
    pub quants: Vec<String>,
}

/// The GGUF that `pick` means among `files` (paths in the repository, sorted), with all the shards that it
/// must have, whether they are there or not.
///
/// A quantisation is a whole word of the file name, in any case. Without one it is Q4_K_M, else Q8_0, else
/// the first. Projectors (`mmproj`) are no models.
///
/// # Errors
/// There is no such GGUF.
pub fn gguf(files: &[String], pick: &Pick) -> Result<Shards, NoSuchGguf> {
    let models = || files.iter().filter(|path| is_gguf(path) && !is_projector(path));
    let of_quant = |quant: &str| models().find(|path| has_word(file_name(path), quant));
    let chosen = match pick {
        Pick::File(path) => models().find(|file| *file == path),
        Pick::Quant(quant) => of_quant(quant),
        Pick::Any => PREFERRED.into_iter().find_map(of_quant).or_else(|| models().next()),
    };
    chosen.map(|path| shards(path)).ok_or_else(|| NoSuchGguf { quants: quants(files) })
}

/// The quantisations of the GGUFs among `files`, sorted; those that bear one in their name.
pub fn quants(files: &[String]) -> Vec<String> {
    let models = files.iter().filter(|path| is_gguf(path) && !is_projector(path));
    let mut quants: Vec<String> = models.filter_map(|path| quant_of(file_name(path))).collect();
    quants.sort();
    quants.dedup();
    quants
}

/// The safetensors that make up the model among `files`, with all the shards that each must have.
pub fn safetensors(files: &[String]) -> Shards {
    let is_weight =
        |path: &&String| path.starts_with("model") && path.ends_with(".safetensors") && !path.contains('/');
    let mut all = BTreeSet::new();
    for path in files.iter().filter(is_weight) {
        if !all.contains(path) && all.len() < SNAPSHOT_ENTRIES_MAX {
            all.extend(shards(path));
        }
    }
    all.into_iter().collect()
}

/// Whether `path` is a file that safetensors need beside them: configuration, tokenizer, chat template.
pub fn is_beside_weights(path: &str) -> bool {
    const ENDINGS: [&str; 5] = [".json", ".txt", ".model", ".tiktoken", ".jinja"];
    !path.contains('/') && ENDINGS.iter().any(|ending| path.ends_with(ending))
}

/// All shards of the split file that `path` is one of, the first one first; of any other file itself.
pub fn shards(path: &str) -> Shards {
    let Some(Split { base, digits, of, count, extension }) = split_name(path) else {
        return vec![path.to_owned()];
    };
    (1..=count).map(|index| format!("{base}-{index:0digits$}-of-{of}{extension}")).collect()
}

/// The parts of `base-00002-of-000163.gguf`.
struct Split<'a> {
    base: &'a str,
    /// Of a shard's number: 5 here.
    digits: usize,
    /// Their count as it is written: `000163`.
    of: &'a str,
    count: u32,
    /// With its dot.
    extension: &'a str,
}

fn split_name(path: &str) -> Option<Split<'_>> {
    let (stem, extension) = path.split_at(path.rfind('.')?);
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (base, index) = rest.rsplit_once('-')?;
    let digits = index.len();
    let number = |digits: &str| {
        let plain = (5..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (index, count) = (number(index)?, number(of)?);
    let is_shard = count <= SHARDS_MAX && (1..=count).contains(&index);
    is_shard.then_some(Split { base, digits, of, count, extension })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_projector(path: &str) -> bool {
    file_name(path).to_ascii_lowercase().contains("mmproj")
}

/// Whether `word` stands in `name` by itself. `Q4_K` does not stand in `Q4_K_M`, nor `Q4_0` in `IQ4_0`; an
/// underscore before it is a separator (`tiny_Q4_0.gguf`).
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    let free =
        |c: Option<char>, joins: &[char]| c.is_none_or(|c| !c.is_ascii_alphanumeric() && !joins.contains(&c));
    name.match_indices(&word).any(|(at, _)| {
        free(name[..at].chars().next_back(), &[]) && free(name[at + word.len()..].chars().next(), &['_'])
    })
}

/// The word of `name` that looks like a quantisation.
fn quant_of(name: &str) -> Option<String> {
    let looks = |word: &&str| {
        let word = word.to_ascii_uppercase();
        let digits = word.strip_prefix("IQ").or(word.strip_prefix("TQ")).or(word.strip_prefix('Q'));
        let is_quant = digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        is_quant || ["F16", "BF16", "F32", "MXFP4"].contains(&word.as_str())
    };
    if let Some(word) = name.split(['-', '.']).rfind(looks) {
        return Some(word.to_owned());
    }
    // As in `tiny_q4_k_m.gguf`: what follows an underscore, the longest first.
    let after = |part: &'_ str| -> Option<String> {
        let ends = part.match_indices('_').map(|(at, _)| &part[at + 1..]);
        ends.into_iter().find(|end| looks(end)).map(str::to_owned)
    };
    name.split(['-', '.']).rev().find_map(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        let mut files: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        files.sort();
        files
    }

    fn quant(name: &str) -> Pick {
        Pick::Quant(name.to_owned())
    }

    #[test]
    fn without_a_word_the_middle_one_is_taken() {
        let chosen = |names: &[&str]| gguf(&files(names), &Pick::Any).expect("there is one");
        assert_eq!(chosen(&["m-Q2_K.gguf", "m-Q8_0.gguf", "m-q4_k_m.gguf"]), ["m-q4_k_m.gguf"]);
        assert_eq!(chosen(&["m-Q2_K.gguf", "m-Q8_0.gguf"]), ["m-Q8_0.gguf"]);
        assert_eq!(chosen(&["mmproj-F16.gguf", "z.gguf", "y.gguf"]), ["y.gguf"]);
    }

    #[test]
    fn a_quantisation_is_a_whole_word_in_any_case() {
        let all =
            files(&["m-IQ4_0.gguf", "m-Q4_K_M.gguf", "m.q4_0.gguf", "t_Q5_0.gguf", "u-UD-Q4_K_XL.gguf"]);
        assert_eq!(gguf(&all, &quant("Q4_0")), Ok(files(&["m.q4_0.gguf"])));
        assert_eq!(gguf(&all, &quant("q5_0")), Ok(files(&["t_Q5_0.gguf"])));
        assert_eq!(gguf(&all, &quant("UD-Q4_K_XL")), Ok(files(&["u-UD-Q4_K_XL.gguf"])));
        let none = gguf(&all, &quant("Q4_K")).expect_err("only longer words");
        assert_eq!(none.quants, ["IQ4_0", "Q4_K_M", "Q4_K_XL", "Q5_0", "q4_0"]);
    }

    #[test]
    fn a_quantisation_is_listed_as_it_is_asked_for() {
        let all = files(&["tiny_q4_k_m.gguf", "tiny_q5_1.gguf", "my_model-F16.gguf", "no_word.gguf"]);
        assert_eq!(quants(&all), ["F16", "q4_k_m", "q5_1"]);
        for word in quants(&all) {
            assert!(gguf(&all, &quant(&word)).is_ok(), "{word}");
        }
    }

    #[test]
    fn a_split_model_is_all_its_shards() {
        let all = files(&["q/m-Q8_0-00001-of-00003.gguf", "q/m-Q8_0-00003-of-00003.gguf"]);
        let expected =
            ["q/m-Q8_0-00001-of-00003.gguf", "q/m-Q8_0-00002-of-00003.gguf", "q/m-Q8_0-00003-of-00003.gguf"];
        assert_eq!(gguf(&all, &Pick::Any).expect("there is one"), expected);
        assert_eq!(gguf(&all, &Pick::File(all[1].clone())).expect("it is there"), expected);
        let three = |name: &str| (1..=3).map(|n| name.replace('1', &n.to_string())).collect::<Vec<_>>();
        assert_eq!(shards("m-00001-of-000003.safetensors"), three("m-00001-of-000003.safetensors"));
        for whole in ["m-1-of-2.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "-of-.gguf", "m"] {
            assert_eq!(shards(whole), [whole]);
        }
    }

    #[test]
    fn safetensors_are_those_of_the_model_at_the_top() {
        let all = files(&[
            "config.json",
            "model-00002-of-00002.safetensors",
            "original/model.safetensors",
            "adapter.safetensors",
        ]);
        assert_eq!(
            safetensors(&all),
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        );
        assert_eq!(safetensors(&files(&["model.safetensors"])), ["model.safetensors"]);
    }
}
