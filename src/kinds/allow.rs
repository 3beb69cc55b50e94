//! What a spawn may add to a kind: with the queen's token one may run a model, not a library of one's own.
//!
//! Messages never repeat what was sent: neither values, nor names.

use std::collections::BTreeMap;

use super::Kind;
use super::manifest::is_env_name;
use crate::limits::{EXTRA_ARG_BYTES_MAX, EXTRA_ARGS_MAX, SPAWN_ENV_BYTES_MAX};

/// Names that a spawn may set only where the kind's `env_allow` says so; in lower case too, as which some are
/// read (`http_proxy`).
///
/// Beside what moves the worker or its requests, these are variables by which loaders, interpreters, drivers and
/// engines find code: anything that names a file or a folder is taken to be one.
pub const ENV_REFUSED: [&str; 40] = [
    "RBEE_*",
    "LD_*",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "PATH",
    "HOME",
    "PYTHON*",
    "BASH_ENV",
    "ENV",
    "NODE_OPTIONS",
    "PERL5*",
    "*_VISIBLE_DEVICES",
    "CUDA_INJECTION*",
    "*_PROXY",
    "SSL_*",
    "OPENSSL_*",
    "LLAMA_ARG_*",
    "LLAMA_APP_CMD",
    "LLAMA_CACHE",
    "LLAMA_SERVER_*",
    "*_PATH",
    "*_FILE",
    "*_DIR",
    "*_HOME",
    "*_LIB",
    "*_LIBRARIES",
    "*_PLUGIN",
    "*_OPTIONS",
    "VK_*",
    "OCL_*",
    "RUBY*",
    "SHELLOPTS",
    "PS4",
    "CC",
    "CXX",
    "CPATH",
    "*FLAGS",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
];

/// Variables of llama-server that do more than run its model: give its clients a shell or files of this machine,
/// start programs, write logs anywhere, fetch and serve other models. A pattern in `env_allow` does not open them:
/// a kind that means them names each whole.
const LLAMA_NAMED_WHOLE: [&str; 12] = [
    "LLAMA_ARG_TOOLS*",
    "LLAMA_ARG_AGENT",
    "LLAMA_ARG_MCP_*",
    "LLAMA_ARG_MODELS_*",
    "LLAMA_ARG_RPC",
    "*_MCP_PROXY",
    "*_PATH",
    "*_FILE",
    "*_DIR",
    "*_URL",
    "*_REPO",
    "*_PRESET",
];

/// An argument of a spawn that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `env` or `extra_args`.
    pub field: &'static str,
    /// What would be right.
    pub message: String,
}

/// Checks a spawn's `env` for `kind`; the result is sorted by name.
///
/// # Errors
/// A name that is none or is refused, a value with a NUL, or more than [`SPAWN_ENV_BYTES_MAX`].
pub fn env(kind: &Kind, env: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, Refused> {
    let refuse = |message: String| Err(Refused { field: "env", message });
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > SPAWN_ENV_BYTES_MAX {
        return refuse(format!("names and values must have at most {SPAWN_ENV_BYTES_MAX} bytes together"));
    }
    for (name, value) in env {
        if !is_env_name(name) {
            return refuse("a name must be [A-Za-z_][A-Za-z0-9_]*".to_owned());
        }
        if value.contains('\0') {
            return refuse("a value must not hold a NUL".to_owned());
        }
        let upper = name.to_ascii_uppercase();
        let list: &[&str] = if kind.env_allow.contains(name) {
            &[]
        } else if !kind.env_allow.iter().any(|pattern| matches(pattern, name)) {
            &ENV_REFUSED
        } else if upper.starts_with("LLAMA_ARG_") {
            &LLAMA_NAMED_WHOLE
        } else {
            &[]
        };
        if let Some(pattern) = list.iter().find(|pattern| matches(pattern, &upper)) {
            return refuse(format!("{pattern} may be set only where the kind's env_allow names it"));
        }
    }
    Ok(env.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Checks a spawn's `extra_args` for `kind`: each option is one that `args_allow` names, as `--option`,
/// `--option value` or `--option=value`.
///
/// # Errors
/// An option that is not named there, a value without an option, a NUL, or too much.
pub fn extra_args(kind: &Kind, args: &[String]) -> Result<Vec<String>, Refused> {
    let refuse = |message: String| Err(Refused { field: "extra_args", message });
    if args.len() > EXTRA_ARGS_MAX {
        return refuse(format!("there may be at most {EXTRA_ARGS_MAX} arguments"));
    }
    let mut value_may_follow = false;
    for arg in args {
        if arg.len() > EXTRA_ARG_BYTES_MAX || arg.contains('\0') {
            return refuse(format!("an argument must have at most {EXTRA_ARG_BYTES_MAX} bytes and no NUL"));
        }
        let (option, inline_value) = arg.split_once('=').map_or((arg.as_str(), false), |(o, _)| (o, true));
        if kind.args_allow.iter().any(|allowed| allowed == option) {
            value_may_follow = !inline_value;
        } else if value_may_follow && (!arg.starts_with('-') || is_negative_number(arg)) {
            value_may_follow = false;
        } else if kind.args_allow.is_empty() {
            return refuse("this kind takes none".to_owned());
        } else {
            return refuse(format!(
                "must be options of {}, each with at most one value",
                kind.args_allow.join(", ")
            ));
        }
    }
    Ok(args.to_vec())
}

/// Whether `name` is what `pattern` says: itself, or with `*` for its beginning or its end.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(start), _) => name.starts_with(start),
        (None, Some(end)) => name.ends_with(end),
        (None, None) => name == pattern,
    }
}

fn is_negative_number(arg: &str) -> bool {
    let digits = arg.strip_prefix('-').unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin;

    fn llama_server() -> Kind {
        builtin::kinds().remove(1)
    }

    fn vllm() -> Kind {
        builtin::kinds().remove(2)
    }

    fn set(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_could_load_code_or_move_the_worker_is_refused() {
        for name in [
            "RBEE_WORKER_TOKEN",
            "LD_PRELOAD",
            "GLIBC_TUNABLES",
            "GCONV_PATH",
            "PATH",
            "HOME",
            "PYTHONPATH",
            "BASH_ENV",
            "ENV",
            "NODE_OPTIONS",
            "PERL5LIB",
            "CUDA_VISIBLE_DEVICES",
            "ROCR_VISIBLE_DEVICES",
            "CUDA_INJECTION64_PATH",
            "HTTPS_PROXY",
            "SSL_CERT_FILE",
            "OPENSSL_CONF",
            "LLAMA_ARG_MODEL",
            "http_proxy",
            "all_proxy",
            "Ld_Preload",
            "GGML_BACKEND_PATH",
            "NCCL_NET_PLUGIN",
            "OMP_TOOL_LIBRARIES",
            "HSA_TOOLS_LIB",
            "VK_ICD_FILENAMES",
            "TORCHINDUCTOR_CACHE_DIR",
            "CUDA_HOME",
            "JAVA_TOOL_OPTIONS",
            "CC",
            "NVCC_PREPEND_FLAGS",
            "VLLM_ALLOW_INSECURE_SERIALIZATION",
        ] {
            let refused = env(&vllm(), &set(name, "secret")).expect_err(name);
            assert_eq!(refused.field, "env");
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
        for name in [
            "OMP_NUM_THREADS",
            "PATHS",
            "A",
            "_",
            "OLD_X",
            "ccache",
            "NCCL_P2P_DISABLE",
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
            "GGML_CUDA_FORCE_MMQ",
        ] {
            assert!(env(&vllm(), &set(name, "1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_kind_may_allow_what_is_refused_elsewhere() {
        assert!(env(&llama_server(), &set("LLAMA_ARG_THREADS", "4")).is_ok());
        assert!(env(&llama_server(), &set("LD_PRELOAD", "x")).is_err());
        let all = Kind { env_allow: vec!["*".to_owned()], ..vllm() };
        assert!(env(&all, &set("LD_LIBRARY_PATH", "x")).is_ok(), "the operator said all");
    }

    #[test]
    fn the_docs_list_what_is_refused() {
        let page = include_str!("../../docs/kinds.md");
        for pattern in ENV_REFUSED {
            assert!(page.contains(&format!("`{pattern}`")), "{pattern}");
        }
    }

    #[test]
    fn what_gives_away_the_machine_must_be_named_whole() {
        for name in [
            "LLAMA_ARG_TOOLS",
            "LLAMA_ARG_TOOLS_RUNTIME",
            "LLAMA_ARG_AGENT",
            "LLAMA_ARG_MCP_SERVERS_JSON",
            "LLAMA_ARG_UI_MCP_PROXY",
            "LLAMA_ARG_STATIC_PATH",
            "LLAMA_ARG_SLOT_SAVE_PATH",
            "LLAMA_ARG_LOG_FILE",
            "LLAMA_ARG_VIDEO_FFMPEG_DIR",
            "LLAMA_ARG_MODEL_URL",
            "LLAMA_ARG_HF_REPO",
            "LLAMA_ARG_MODELS_DIR",
            "LLAMA_ARG_RPC",
        ] {
            assert!(env(&llama_server(), &set(name, "x")).is_err(), "{name}");
            let named = Kind { env_allow: vec![name.to_owned()], ..llama_server() };
            assert!(env(&named, &set(name, "x")).is_ok(), "{name}");
        }
    }

    #[test]
    fn names_values_and_size_are_checked() {
        for name in ["", "1A", "A-B", "A B", "Ä", "A=B", "A\n"] {
            assert!(env(&vllm(), &set(name, "1")).is_err(), "{name}");
        }
        assert!(env(&vllm(), &set("A", "x\0y")).is_err());
        assert!(env(&vllm(), &set("A", &"x".repeat(SPAWN_ENV_BYTES_MAX - 1))).is_ok());
        assert!(env(&vllm(), &set("A", &"x".repeat(SPAWN_ENV_BYTES_MAX))).is_err());
    }

    #[test]
    fn options_are_those_the_kind_names() {
        for line in [
            "--threads 4",
            "--threads=4",
            "--threads -1",
            "--threads",
            "--flash-attn on --threads=4",
            "--threads=--x",
        ] {
            assert_eq!(extra_args(&llama_server(), &args(line)), Ok(args(line)), "{line}");
        }
        for line in [
            "--model x",
            "-m x",
            "4",
            "--threads 4 5",
            "--threads=4 5",
            "--threads --host",
            "--thread 4",
            "-1",
            "--threads -x",
            "--threads -inf",
            "--",
        ] {
            let refused = extra_args(&llama_server(), &args(line)).expect_err(line);
            assert_eq!(refused.field, "extra_args");
            assert!(refused.message.contains("--cache-type-k"), "{}", refused.message);
        }
        assert!(extra_args(&builtin::kinds().remove(0), &args("--x")).is_err());
        assert_eq!(extra_args(&vllm(), &[]), Ok(vec![]));
    }

    #[test]
    fn arguments_are_bounded() {
        assert!(extra_args(&llama_server(), &vec!["--threads".to_owned(); EXTRA_ARGS_MAX]).is_ok());
        assert!(extra_args(&llama_server(), &vec!["--threads".to_owned(); EXTRA_ARGS_MAX + 1]).is_err());
        assert!(
            extra_args(&llama_server(), &[format!("--threads={}", "1".repeat(EXTRA_ARG_BYTES_MAX))]).is_err()
        );
        assert!(extra_args(&llama_server(), &["--threads=\0".to_owned()]).is_err());
    }
}
