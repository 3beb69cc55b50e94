//! From what was typed to what it means: files are read, defaults worked out, and what belongs together is
//! checked together.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::serve::Typed;
use super::value::is_hive_id_char;
use super::{CliError, Environment};
use crate::capacity::ledger::Rules;
use crate::config::{Config, Orphans, QueenConfig, QueenTokenSource, Sources};
use crate::devices::ProbeConfig;
use crate::id::Token;
use crate::kinds::{Kinds, KindsError};
use crate::limits::{HIVE_ID_BYTES_MAX, TOKEN_FILE_BYTES_MAX};
use crate::models::hub::HubConfig;

/// The settings that `typed` and `env` mean.
pub(super) fn config(typed: Typed, env: Environment<'_>) -> Result<Config, CliError> {
    let token = token(typed.token_file.as_deref(), "RBEE_HIVE_TOKEN", env)?;
    if token.is_none() && !typed.bind.ip().to_canonical().is_loopback() {
        return Err(CliError::runtime("API token required for non-loopback bind")
            .with_hint("set one with --token-file or RBEE_HIVE_TOKEN, or bind to 127.0.0.1"));
    }
    let queen_token = self::token(typed.queen_token_file.as_deref(), "RBEE_HIVE_QUEEN_TOKEN", env)?;
    let kinds = Kinds::load(&typed.kind_files, &typed.workers).map_err(kinds_error)?;
    let sources = Sources {
        kind_files: typed.kind_files,
        programs: typed.workers,
        token_file: typed.token_file,
        queen_token: match (typed.queen_token_file, &queen_token) {
            (Some(file), _) => QueenTokenSource::File(file),
            (None, Some(_)) => QueenTokenSource::Fixed,
            (None, None) => QueenTokenSource::Own,
        },
    };
    let queen = typed.queen_url.map(|url| QueenConfig { url, token: queen_token.or_else(|| token.clone()) });
    Ok(Config {
        bind: typed.bind,
        hive_id: typed.hive_id.unwrap_or_else(host_name),
        host_name: host_name(),
        advertise_url: typed.advertise_url,
        token,
        queen,
        heartbeat_interval: typed.heartbeat_interval,
        worker_heartbeat_timeout: typed.worker_heartbeat_timeout,
        ready_timeout: typed.ready_timeout,
        shutdown_timeout: typed.shutdown_timeout,
        orphans: typed.orphans,
        orphan_timeout: typed.orphan_timeout.unwrap_or(match typed.orphans {
            Orphans::Adopt => Duration::from_secs(10 * 60),
            Orphans::Kill => Duration::from_secs(1),
        }),
        idle_timeout: Some(typed.idle_timeout).filter(|timeout| !timeout.is_zero()),
        restart_limit: typed.restart_limit,
        worker_host: typed.worker_host,
        worker_ports: typed.worker_ports,
        kinds,
        sources,
        probe: ProbeConfig::from_env(env),
        rules: Rules {
            reserve: typed.reserve.into_iter().collect(),
            hidden: typed.hidden.into_iter().collect(),
        },
        data_dir: typed.data_dir.map_or_else(|| data_dir(env), Ok)?,
        model_dir: typed.model_dir.map_or_else(|| model_dir(env), Ok)?,
        hub: HubConfig::from_env(env).map_err(CliError::usage)?,
        artifacts: typed
            .artifact_url
            .map(|url| HubConfig::plain(&url, env))
            .transpose()
            .map_err(|wrong| CliError::usage(format!("--artifact-url: {wrong}")))?,
        threads: typed.threads,
        max_connections: typed.max_connections,
        log_format: typed.log_format,
    })
}

pub(super) fn kinds_error(error: KindsError) -> CliError {
    let flag = match error {
        KindsError::NoSuchKind { .. } => "--worker",
        KindsError::Manifest(_) | KindsError::Twice { .. } => "--kind-file",
    };
    CliError::usage(format!("{flag}: {error}"))
}

/// The token in `file`, else the one in the variable `name`.
pub(super) fn token(
    file: Option<&Path>,
    name: &str,
    env: Environment<'_>,
) -> Result<Option<Token>, CliError> {
    if let Some(file) = file {
        return token_in(file).map(Some);
    }
    let Some(value) = env(name) else { return Ok(None) };
    let value = value.to_string_lossy();
    Token::parse(value.trim()).map(Some).ok_or_else(|| wrong_token(name, no_token(value.trim())))
}

/// The token in `file`.
pub(crate) fn token_in(file: &Path) -> Result<Token, CliError> {
    let source = format!("token file {file:?}");
    let line = first_line(file).map_err(|e| wrong_token(&source, &format!("cannot be read: {e}")))?;
    Token::parse(&line).ok_or_else(|| wrong_token(&source, no_token(&line)))
}

fn wrong_token(source: &str, what: &str) -> CliError {
    let hint = "a token is one line of 1 to 1024 visible ASCII characters";
    CliError::runtime(format!("{source}: {what}")).with_hint(hint)
}

fn no_token(text: &str) -> &'static str {
    if text.is_empty() { "is empty" } else { "holds no token" }
}

/// The first line, trimmed. What is no UTF-8 is replaced, and then is no token.
fn first_line(file: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?.take(TOKEN_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim().to_owned())
}

/// This machine's name in the grammar of a hive's; `hive` if nothing of it is left.
fn host_name() -> String {
    sanitised(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default())
}

fn sanitised(name: &str) -> String {
    let name: String = name.trim().chars().take(HIVE_ID_BYTES_MAX).collect();
    let name = name.replace(|c| !is_hive_id_char(c), "-");
    if name.is_empty() { "hive".to_owned() } else { name }
}

/// As the XDG base directory specification has it: a relative `XDG_DATA_HOME` does not count.
pub(super) fn data_dir(env: Environment<'_>) -> Result<PathBuf, CliError> {
    let xdg = env("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = xdg.or_else(|| home(env).map(|home| home.join(".local/share")));
    base.map(|base| base.join("rbee-hive")).ok_or_else(|| no_home("--data-dir"))
}

/// As `huggingface_hub` has it.
pub(super) fn model_dir(env: Environment<'_>) -> Result<PathBuf, CliError> {
    let dir = |name| env(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let found = dir("HF_HUB_CACHE")
        .or_else(|| dir("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| dir("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| dir("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .unwrap_or_else(|| "~/.cache/huggingface/hub".into());
    let expanded = match found.strip_prefix("~") {
        Ok(rest) => home(env).ok_or_else(|| no_home("--model-dir"))?.join(rest),
        Err(_) => found,
    };
    std::path::absolute(expanded).map_err(|_| no_home("--model-dir"))
}

fn home(env: Environment<'_>) -> Option<PathBuf> {
    env("HOME").map(PathBuf::from).filter(|home| home.is_absolute())
}

fn no_home(flag: &str) -> CliError {
    CliError::runtime(format!("no folder for {flag}: HOME is not set")).with_hint(format!("set {flag} DIR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_name_becomes_a_hive_id() {
        assert_eq!(sanitised("gpu-7.rack\n"), "gpu-7.rack");
        assert_eq!(sanitised("my_hôst"), "my-h-st");
        assert_eq!(sanitised(&"x".repeat(80)).len(), HIVE_ID_BYTES_MAX);
        assert_eq!(sanitised(" \n"), "hive");
        assert!(!host_name().is_empty());
    }

    #[test]
    fn the_data_lies_where_xdg_says() {
        let dir = |vars: &'static [(&str, &str)]| {
            data_dir(&move |name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
        };
        assert_eq!(dir(&[("XDG_DATA_HOME", "/d"), ("HOME", "/h")]), Ok("/d/rbee-hive".into()));
        assert_eq!(dir(&[("XDG_DATA_HOME", "d"), ("HOME", "/h")]), Ok("/h/.local/share/rbee-hive".into()));
        assert_eq!(dir(&[]).expect_err("no home").exit_code, 1);
    }

    #[test]
    fn the_models_lie_where_hugging_face_has_them() {
        let dir = |vars: &'static [(&str, &str)]| {
            model_dir(&move |name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
        };
        let all = &[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/f"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(dir(all), Ok("/c".into()));
        assert_eq!(dir(&all[1..]), Ok("/f/hub".into()));
        assert_eq!(dir(&all[2..]), Ok("/x/huggingface/hub".into()));
        assert_eq!(dir(&all[3..]), Ok("/h/.cache/huggingface/hub".into()));
        assert_eq!(dir(&[("HF_HOME", "~/hf"), ("HOME", "/h")]), Ok("/h/hf/hub".into()));
        assert_eq!(dir(&[]).expect_err("no home").exit_code, 1);
    }
}
