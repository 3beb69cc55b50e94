//! What a spawn may add to a kind: with the queen's token one may run a model, not a library of one's own.
//!
//! Messages never repeat what was sent: neither values, nor names.

use std::collections::BTreeMap;

use super::Kind;
use super::manifest::is_env_name;
use crate::limits::{EXTRA_ARG_BYTES_MAX, EXTRA_ARGS_MAX, SPAWN_ENV_BYTES_MAX};

/// Names that a spawn may set only where the kind's `env_allow` says so.
pub const ENV_REFUSED: [&str; 17] = [
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
        let allowed = kind.env_allow.iter().any(|pattern| matches(pattern, name));
        if let Some(pattern) = ENV_REFUSED.iter().find(|pattern| !allowed && matches(pattern, name)) {
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
        ] {
            let refused = env(&vllm(), &set(name, "secret")).expect_err(name);
            assert_eq!(refused.field, "env");
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
        for name in ["OMP_NUM_THREADS", "PATHS", "MY_HOME", "A", "_", "ld_x", "GGML_CUDA_FORCE_MMQ"] {
            assert!(env(&vllm(), &set(name, "1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_kind_may_allow_what_is_refused_elsewhere() {
        assert!(env(&llama_server(), &set("LLAMA_ARG_THREADS", "4")).is_ok());
        assert!(env(&llama_server(), &set("LD_PRELOAD", "x")).is_err());
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
