//! The kinds that every hive knows, written as manifests like anyone's.

use super::{Kind, manifest};

const MANIFESTS: [&str; 3] = [
    include_str!("builtin/llm-worker-rbee.json"),
    include_str!("builtin/llama-server.json"),
    include_str!("builtin/vllm.json"),
];

/// `llm-worker-rbee`, `llama-server` and `vllm`, in this order.
pub fn kinds() -> Vec<Kind> {
    let parse = |text: &&str| manifest::parse(text.as_bytes()).expect("a test parses the built-in manifests");
    MANIFESTS.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_is_a_good_manifest_in_a_stable_order() {
        let names: Vec<_> = kinds().into_iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["llm-worker-rbee", "llama-server", "vllm"]);
    }

    #[test]
    fn vllm_keeps_its_environment_so_that_it_can_be_adopted() {
        let vllm = kinds().pop().expect("three kinds");
        assert!(vllm.env.contains_key("SPT_NOENV"));
    }
}
