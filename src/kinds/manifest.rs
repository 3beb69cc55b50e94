//! A kind's manifest: JSON in, a [`Kind`] out, or the mistake by name.
//!
//! [`parse`] is pure; [`read`] adds the file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use serde_json::{Value, json};

pub use super::json::Mistake;
use super::json::{Object, escaped};
use super::template::PLACEHOLDERS;
use super::{Busy, Kind, Probe, Protocol, Template};
use crate::duration;
use crate::id::Backend;
use crate::limits::{KIND_NAME_BYTES_MAX, MANIFEST_BYTES_MAX, PROBE_INTERVAL, PROBE_TIMEOUT};

/// Time between two questions where the manifest does not say.
const INTERVAL_DEFAULT: Duration = Duration::from_millis(500);
/// Time for an answer where the manifest does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// A mistake in a manifest's file, for a person: file, field, what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMistake {
    /// The file as it was named.
    pub file: PathBuf,
    /// What is wrong in it, or with it.
    pub mistake: Mistake,
}

impl fmt::Display for FileMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.to_string_lossy().escape_debug(), self.mistake)
    }
}

impl std::error::Error for FileMistake {}

/// Reads the manifest in `file`. A program given as a relative path lies beside the manifest.
///
/// # Errors
/// The file cannot be read, is larger than [`MANIFEST_BYTES_MAX`], or has a mistake.
pub fn read(file: &Path) -> Result<Kind, FileMistake> {
    let fail = |mistake| FileMistake { file: file.to_owned(), mistake };
    let bytes = read_bounded(file).map_err(|message| fail(Mistake::new("", message)))?;
    let mut kind = parse(&bytes).map_err(fail)?;
    if kind.program.components().count() > 1 && kind.program.is_relative() {
        kind.program = file.parent().unwrap_or(Path::new("")).join(&kind.program);
    }
    Ok(kind)
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    open(file)
        .and_then(|f| f.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(format!("is larger than {MANIFEST_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// A pipe that nobody writes to is empty, and not waited for; one from a shell's `<(…)` is read to its end.
fn open(file: &Path) -> io::Result<File> {
    let no_wait = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(no_wait).open(file)?;
    fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// Parses a manifest. The order of its fields does not matter.
///
/// # Errors
/// The first mistake: a field that is missing, unknown, repeated, of a wrong type or with a wrong value.
pub fn parse(manifest: &[u8]) -> Result<Kind, Mistake> {
    let mut top = Object::parse(manifest)?;
    let name = top.required_text("kind")?;
    if !is_kind_name(&name) {
        return Err(top.mistake("kind", "must be [a-z0-9][a-z0-9-]{0,63}"));
    }
    let protocol = protocol(&mut top)?;
    let program = program(&mut top)?;
    let backends = backends(&mut top)?;
    let args = match (top.texts("args")?, &protocol) {
        (Some(args), _) => templates(&top, "args", args)?,
        (None, Protocol::Native) => Vec::new(),
        (None, Protocol::Probe(_)) => return Err(top.missing("args")),
    };
    let env = env(&mut top)?;
    let env_allow = checked(
        &mut top,
        "env_allow",
        is_env_pattern,
        "must be a name, with `*` for its beginning or its end",
    )?;
    let args_allow = checked(&mut top, "args_allow", is_option, "must be an option, like `--threads`")?;
    let version_args = version_args(&mut top)?;
    top.end()?;
    let install = None;
    Ok(Kind { name, protocol, program, backends, args, env, env_allow, args_allow, version_args, install })
}

/// The manifest of `kind`, which [`parse`] reads as the same. Its program must be valid UTF-8 for that, and what it
/// was installed by is not in it.
pub fn write(kind: &Kind) -> Value {
    let texts = |templates: &[Template]| templates.iter().map(Template::text).collect::<Vec<_>>();
    let mut manifest = json!({
        "kind": kind.name,
        "program": kind.program.to_string_lossy(),
        "backends": kind.backends,
        "args": texts(&kind.args),
        "env": kind.env.iter().map(|(name, value)| (name, value.text())).collect::<BTreeMap<_, _>>(),
        "env_allow": kind.env_allow,
        "args_allow": kind.args_allow,
        "version_args": kind.version_args,
    });
    match &kind.protocol {
        Protocol::Native => manifest["protocol"] = "native".into(),
        Protocol::Probe(Probe { path, interval, timeout, busy }) => {
            manifest["protocol"] = "probe".into();
            let (interval, timeout) = (duration::show(*interval), duration::show(*timeout));
            let mut probe = json!({ "path": path, "interval": interval, "timeout": timeout });
            match busy {
                None => {}
                Some(Busy::Count { path, field }) => probe["busy"] = json!({ "path": path, "count": field }),
                Some(Busy::Sum { path, metric }) => probe["busy"] = json!({ "path": path, "sum": metric }),
            }
            manifest["probe"] = probe;
        }
    }
    manifest
}

/// Whether `name` may be a kind's: `[a-z0-9][a-z0-9-]{0,63}`.
pub fn is_kind_name(name: &str) -> bool {
    (1..=KIND_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether `name` may be the name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
pub(super) fn is_env_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_env_pattern(pattern: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(start), _) => start.is_empty() || is_env_name(start),
        (None, Some(end)) => end.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
        (None, None) => is_env_name(pattern),
    }
}

fn is_option(option: &str) -> bool {
    option.starts_with('-')
        && option.trim_start_matches('-').starts_with(|c: char| c.is_ascii_alphabetic())
        && option.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

fn protocol(top: &mut Object) -> Result<Protocol, Mistake> {
    let word = top.required_text("protocol")?;
    let probe = top.object("probe")?;
    match (word.as_str(), probe) {
        ("native", None) => Ok(Protocol::Native),
        ("native", Some(_)) => Err(top.mistake("probe", "belongs to protocol `probe` only")),
        ("probe", Some(mut fields)) => read_probe(&mut fields).map(Protocol::Probe),
        ("probe", None) => Err(top.missing("probe")),
        _ => Err(top.mistake("protocol", "must be `native` or `probe`")),
    }
}

fn read_probe(fields: &mut Object) -> Result<Probe, Mistake> {
    let path = url_path(fields)?;
    let mut time = |name, default, range| match fields.text(name)? {
        None => Ok(default),
        Some(text) => duration::parse_in(&text, range).map_err(|message| fields.mistake(name, message)),
    };
    let interval = time("interval", INTERVAL_DEFAULT, &PROBE_INTERVAL)?;
    let timeout = time("timeout", TIMEOUT_DEFAULT, &PROBE_TIMEOUT)?;
    let busy = fields.object("busy")?.map(read_busy).transpose()?;
    fields.end()?;
    Ok(Probe { path, interval, timeout, busy })
}

fn read_busy(mut fields: Object) -> Result<Busy, Mistake> {
    let path = url_path(&mut fields)?;
    let (count, sum) = (fields.text("count")?, fields.text("sum")?);
    fields.end()?;
    match (count, sum) {
        (Some(field), None) if !field.is_empty() => Ok(Busy::Count { path, field }),
        (Some(_), None) => Err(fields.mistake("count", "must name a field of the array's elements")),
        (None, Some(metric)) if is_metric(&metric) => Ok(Busy::Sum { path, metric }),
        (None, Some(_)) => Err(fields.mistake("sum", "must be the name of a Prometheus gauge")),
        _ => Err(fields.mistake("count", "or `sum`, one of the two, must be there")),
    }
}

fn is_metric(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

fn url_path(fields: &mut Object) -> Result<String, Mistake> {
    let path = fields.required_text("path")?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        Ok(path)
    } else {
        Err(fields.mistake("path", "must be the path of a URL, like `/health`"))
    }
}

fn program(top: &mut Object) -> Result<PathBuf, Mistake> {
    let program = top.required_text("program")?;
    let is_folder = matches!(program.rsplit('/').next(), None | Some("" | "." | ".."));
    if is_folder || program.contains('\0') {
        return Err(top.mistake("program", "must be a file, or a name that is looked for on PATH"));
    }
    Ok(program.into())
}

fn backends(top: &mut Object) -> Result<Vec<Backend>, Mistake> {
    let words = top.texts("backends")?.ok_or_else(|| top.missing("backends"))?;
    let mut backends = Vec::new();
    once(top, "backends", &words)?;
    for (index, word) in words.iter().enumerate() {
        let known = || Backend::ALL.map(Backend::as_str).join(", ");
        let wrong = |()| Mistake::new(format!("backends[{index}]"), format!("must be one of {}", known()));
        backends.push(word.parse().map_err(wrong)?);
    }
    if backends.is_empty() { Err(top.mistake("backends", "must name at least one")) } else { Ok(backends) }
}

fn env(top: &mut Object) -> Result<BTreeMap<String, Template>, Mistake> {
    let Some(mut fields) = top.object("env")? else { return Ok(BTreeMap::new()) };
    let mut env = BTreeMap::new();
    for name in fields.names() {
        if !is_env_name(&name) {
            return Err(fields.mistake(&name, "must be [A-Za-z_][A-Za-z0-9_]*"));
        }
        let value = fields.required_text(&name)?;
        env.insert(name.clone(), template(&fields.path(&name), &value)?);
    }
    Ok(env)
}

fn templates(top: &Object, name: &str, args: Vec<String>) -> Result<Vec<Template>, Mistake> {
    let args = args.iter().enumerate();
    args.map(|(index, arg)| template(&format!("{}[{index}]", top.path(name)), arg)).collect()
}

fn template(field: &str, text: &str) -> Result<Template, Mistake> {
    if text.contains('\0') {
        return Err(Mistake::new(field, "must not hold a NUL"));
    }
    Template::parse(text).map_err(|unknown| {
        let known: Vec<_> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
        let unknown = escaped(&unknown);
        Mistake::new(field, format!("has no placeholder {{{unknown}}}; there are {}", known.join(", ")))
    })
}

fn checked(
    top: &mut Object,
    name: &str,
    good: fn(&str) -> bool,
    message: &str,
) -> Result<Vec<String>, Mistake> {
    let texts = top.texts(name)?.unwrap_or_default();
    once(top, name, &texts)?;
    match texts.iter().position(|text| !good(text)) {
        None => Ok(texts),
        Some(index) => Err(Mistake::new(format!("{}[{index}]", top.path(name)), message)),
    }
}

/// Arguments that are the same at each launch: none has a placeholder.
fn version_args(top: &mut Object) -> Result<Vec<String>, Mistake> {
    let args = top.texts("version_args")?.unwrap_or_default();
    let templates = templates(top, "version_args", args.clone())?;
    match templates.iter().position(|arg| arg.plain().is_none()) {
        None => Ok(args),
        Some(index) => {
            Err(Mistake::new(format!("version_args[{index}]"), "takes no placeholder: there is no launch"))
        }
    }
}

/// Refuses a text that stands in its list already.
fn once(top: &Object, name: &str, texts: &[String]) -> Result<(), Mistake> {
    match (1..texts.len()).find(|at| texts[..*at].contains(&texts[*at])) {
        None => Ok(()),
        Some(at) => Err(Mistake::new(format!("{}[{at}]", top.path(name)), "stands there twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::builtin;

    fn good() -> Value {
        json!({
            "kind": "k", "protocol": "probe", "program": "k", "backends": ["cpu"], "args": ["--port", "{port}"],
            "env": {"A": "{ctx}"}, "env_allow": ["LLAMA_ARG_*", "*_PROXY"], "args_allow": ["--threads", "-t"],
            "probe": {"path": "/health", "interval": "1s", "timeout": "250ms", "busy": {"path": "/m", "sum": "a:b"}},
            "version_args": ["--version"]
        })
    }

    fn mistake_of(manifest: &Value) -> String {
        parse(manifest.to_string().as_bytes()).expect_err("a mistake").to_string()
    }

    #[test]
    fn a_whole_manifest_is_understood() {
        let kind = parse(good().to_string().as_bytes()).expect("a good manifest");
        assert_eq!((kind.name.as_str(), kind.backends.as_slice()), ("k", [Backend::Cpu].as_slice()));
        let busy = Busy::Sum { path: "/m".to_owned(), metric: "a:b".to_owned() };
        let probe = Probe {
            path: "/health".to_owned(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(250),
            busy: Some(busy),
        };
        assert_eq!(kind.protocol, Protocol::Probe(probe));
    }

    #[test]
    fn what_is_written_is_read_as_the_same_kind() {
        let native =
            json!({"kind": "n", "protocol": "native", "program": "/a b/{c", "backends": ["rocm", "cpu"]});
        let count = json!({"path": "/s", "count": "is_processing"});
        let mut counted = good();
        counted["probe"]["busy"] = count;
        let builtin = builtin::kinds().into_iter();
        let given =
            [good(), native, counted].map(|given| parse(given.to_string().as_bytes()).expect("a good one"));
        for kind in builtin.chain(given) {
            assert_eq!(parse(write(&kind).to_string().as_bytes()), Ok(kind));
        }
    }

    #[test]
    fn every_mistake_is_named_by_its_field() {
        let cases = [
            ("/kind", json!("K"), "kind: must be [a-z0-9][a-z0-9-]{0,63}"),
            ("/kind", json!(7), "kind: must be a text"),
            ("/protocol", json!("http"), "protocol: must be `native` or `probe`"),
            ("/protocol", json!("native"), "probe: belongs to protocol `probe` only"),
            ("/program", json!(""), "program: must be a file, or a name that is looked for on PATH"),
            ("/program", json!("a\u{0}b"), "program: must be a file, or a name that is looked for on PATH"),
            ("/backends", json!("cpu"), "backends: must be a list of texts"),
            ("/backends", json!([]), "backends: must name at least one"),
            (
                "/backends",
                json!(["cpu", "tpu"]),
                "backends[1]: must be one of cpu, cuda, rocm, vulkan, metal",
            ),
            ("/backends", json!(["cpu", "cpu"]), "backends[1]: stands there twice"),
            ("/args", json!(["a", 1]), "args[1]: must be a text"),
            ("/env", json!([]), "env: must be an object"),
            ("/env", json!({"1A": ""}), "env.1A: must be [A-Za-z_][A-Za-z0-9_]*"),
            ("/env", json!({"a\nb": ""}), "env.a\\nb: must be [A-Za-z_][A-Za-z0-9_]*"),
            ("/env", json!({"A": 1}), "env.A: must be a text"),
            (
                "/env_allow",
                json!(["A*B"]),
                "env_allow[0]: must be a name, with `*` for its beginning or its end",
            ),
            ("/args_allow", json!(["threads"]), "args_allow[0]: must be an option, like `--threads`"),
            ("/args_allow", json!(["--a=1"]), "args_allow[0]: must be an option, like `--threads`"),
            (
                "/env_allow",
                json!(["1A"]),
                "env_allow[0]: must be a name, with `*` for its beginning or its end",
            ),
            (
                "/env_allow",
                json!(["A-*"]),
                "env_allow[0]: must be a name, with `*` for its beginning or its end",
            ),
            (
                "/env_allow",
                json!(["**"]),
                "env_allow[0]: must be a name, with `*` for its beginning or its end",
            ),
            ("/env_allow", json!(["A", "B", "A"]), "env_allow[2]: stands there twice"),
            ("/env_allow", json!("A"), "env_allow: must be a list of texts"),
            ("/args_allow", json!(["-t", "-t"]), "args_allow[1]: stands there twice"),
            ("/args_allow", json!(["--"]), "args_allow[0]: must be an option, like `--threads`"),
            ("/args_allow", json!([["-t"]]), "args_allow[0]: must be a text"),
            ("/env", json!({"A": "\u{0}"}), "env.A: must not hold a NUL"),
            ("/args", json!(["{port}\u{0}"]), "args[0]: must not hold a NUL"),
            ("/args", json!(null), "args: must be a list of texts"),
            ("/version_args", json!("--version"), "version_args: must be a list of texts"),
            ("/version_args", json!(["-v", true]), "version_args[1]: must be a text"),
            ("/version_args", json!(["\u{0}"]), "version_args[0]: must not hold a NUL"),
            (
                "/version_args",
                json!(["-v", "{port}"]),
                "version_args[1]: takes no placeholder: there is no launch",
            ),
            ("/kind", json!("-k"), "kind: must be [a-z0-9][a-z0-9-]{0,63}"),
            ("/kind", json!("k_"), "kind: must be [a-z0-9][a-z0-9-]{0,63}"),
            ("/kind", json!(""), "kind: must be [a-z0-9][a-z0-9-]{0,63}"),
            ("/kind", json!("k".repeat(65)), "kind: must be [a-z0-9][a-z0-9-]{0,63}"),
            ("/program", json!("bin/"), "program: must be a file, or a name that is looked for on PATH"),
            ("/program", json!("."), "program: must be a file, or a name that is looked for on PATH"),
            ("/program", json!("a/.."), "program: must be a file, or a name that is looked for on PATH"),
            ("/probe/path", json!("/a#b"), "probe.path: must be the path of a URL, like `/health`"),
            ("/probe/path", json!("/é"), "probe.path: must be the path of a URL, like `/health`"),
            ("/probe/interval", json!(500), "probe.interval: must be a text"),
            ("/probe/interval", json!("2h"), "probe.interval: is out of bounds; it must be from 50ms to 1h"),
            ("/probe/timeout", json!("9ms"), "probe.timeout: is out of bounds; it must be from 10ms to 1m"),
            (
                "/probe/timeout",
                json!("-1s"),
                "probe.timeout: is no duration; write one like 250ms, 30s, 5m, 1h, or plain seconds",
            ),
            ("/probe/busy", json!([]), "probe.busy: must be an object"),
            (
                "/probe/busy",
                json!({"path": "s"}),
                "probe.busy.path: must be the path of a URL, like `/health`",
            ),
            ("/probe/busy", json!({"path": "/s", "count": 1}), "probe.busy.count: must be a text"),
            ("/probe/busy", json!({"path": "/s", "sum": true}), "probe.busy.sum: must be a text"),
            (
                "/probe/busy",
                json!({"path": "/s", "sum": "1a"}),
                "probe.busy.sum: must be the name of a Prometheus gauge",
            ),
            (
                "/probe",
                json!({"path": "/h", "intervall": "1s"}),
                "probe.intervall: is no field of a manifest; did you mean `interval`?",
            ),
            ("/probe", json!({"pth": "/h"}), "probe.path: is missing; is it `pth`?"),
            ("/probe", json!("x"), "probe: must be an object"),
            ("/probe", json!({}), "probe.path: is missing"),
            ("/probe/path", json!("health"), "probe.path: must be the path of a URL, like `/health`"),
            ("/probe/path", json!("/a b"), "probe.path: must be the path of a URL, like `/health`"),
            (
                "/probe/interval",
                json!("soon"),
                "probe.interval: is no duration; write one like 250ms, 30s, 5m, 1h, or plain seconds",
            ),
            ("/probe/interval", json!("0s"), "probe.interval: is out of bounds; it must be from 50ms to 1h"),
            ("/probe/timeout", json!("2h"), "probe.timeout: is out of bounds; it must be from 10ms to 1m"),
            ("/probe/busy", json!({}), "probe.busy.path: is missing"),
            (
                "/probe/busy",
                json!({"path": "/s"}),
                "probe.busy.count: or `sum`, one of the two, must be there",
            ),
            (
                "/probe/busy",
                json!({"path": "/s", "sum": "a", "count": "b"}),
                "probe.busy.count: or `sum`, one of the two, must be there",
            ),
            (
                "/probe/busy",
                json!({"path": "/s", "count": ""}),
                "probe.busy.count: must name a field of the array's elements",
            ),
            (
                "/probe/busy",
                json!({"path": "/s", "sum": "a b"}),
                "probe.busy.sum: must be the name of a Prometheus gauge",
            ),
            (
                "/probe/busy",
                json!({"path": "/s", "sum": "a", "x": 1}),
                "probe.busy.x: is no field of a manifest; there are count, path, sum",
            ),
        ];
        for (pointer, value, expected) in cases {
            let mut manifest = good();
            *manifest.pointer_mut(pointer).expect("the field is there") = value;
            assert_eq!(mistake_of(&manifest), expected);
        }
    }

    #[test]
    fn an_unknown_placeholder_is_named_with_those_there_are() {
        let mut manifest = good();
        manifest["args"] = json!(["--port", "--x={prot}"]);
        let message = mistake_of(&manifest);
        assert!(
            message.starts_with("args[1]: has no placeholder {prot}; there are worker_id, model_path,"),
            "{message}"
        );
    }

    #[test]
    fn of_a_long_name_a_mistake_has_the_beginning() {
        let long = "x".repeat(100_000);
        for (field, value) in [(long.as_str(), json!(1)), ("args", json!([format!("{{{long}}}")]))] {
            let mut manifest = good();
            manifest[field] = value;
            let message = mistake_of(&manifest);
            assert!(message.contains("xxx…") && message.len() < 400, "{message}");
        }
    }

    #[test]
    fn what_must_be_there_is_missed_and_nothing_else() {
        for name in ["kind", "protocol", "program", "backends", "args", "probe"] {
            let mut manifest = good();
            manifest.as_object_mut().expect("an object").remove(name);
            assert_eq!(mistake_of(&manifest), format!("{name}: is missing"));
        }
        let native = br#"{"backends":["cuda"],"program":"/opt/w","protocol":"native","kind":"w"}"#;
        assert!(parse(native).is_ok_and(|kind| kind.args.is_empty()));
    }

    #[test]
    fn unknown_repeated_and_broken_json_is_refused() {
        let mut manifest = good();
        manifest["prgram"] = json!("x");
        assert_eq!(mistake_of(&manifest), "prgram: is no field of a manifest; did you mean `program`?");
        let message = |bytes: &[u8]| parse(bytes).expect_err("a mistake").to_string();
        assert_eq!(message(b"[]"), "must be a JSON object");
        for (written, meant) in [("prgram", "program"), ("protocoll", "protocol"), ("arg", "args")] {
            let mut manifest = good();
            let fields = manifest.as_object_mut().expect("an object");
            let value = fields.remove(meant).expect("the field is there");
            fields.insert(written.to_owned(), value);
            assert_eq!(mistake_of(&manifest), format!("{meant}: is missing; is it `{written}`?"));
        }
        let mut manifest = good();
        manifest["zzzzzzzz"] = json!(1);
        assert_eq!(
            mistake_of(&manifest),
            "zzzzzzzz: is no field of a manifest; there are args, args_allow, backends, env, env_allow, kind, \
             probe, program, protocol, version_args"
        );
        let twice = br#"{"kind":"a","probe":{"path":"/a","path":"/b"}}"#;
        assert!(message(twice).contains("the field `path` stands there twice at line 1 column"));
        assert!(
            message(b"{\"kind\":\"a\",\n\"kind\":\"b\"}")
                .contains("`kind` stands there twice at line 2 column")
        );
        assert!(message(b"{\n\"kind\" 1}").contains("at line 2 column 8"), "{}", message(b"{\n\"kind\" 1}"));
        assert!(message(b"{}{}").contains("trailing characters"));
        assert_eq!(message(b"{\xff"), "no valid JSON: what follows byte 1 is no UTF-8");
        assert!(message(b"\xef\xbb\xbf{}").contains("byte order mark"));
        assert_eq!(message(b" \n"), "no valid JSON: it is empty");
        assert!(message("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn a_file_is_named_with_its_mistake() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("k.json");
        let message = || read(&file).expect_err("a mistake").to_string();
        assert!(message().contains("k.json: cannot be read: No such file"), "{}", message());
        std::fs::write(&file, vec![b' '; MANIFEST_BYTES_MAX as usize + 1]).expect("written");
        assert!(message().ends_with("k.json: is larger than 262144 bytes"), "{}", message());
        std::fs::write(&file, "{}").expect("written");
        assert!(message().ends_with("k.json: kind: is missing"), "{}", message());
    }

    #[test]
    fn a_relative_program_lies_beside_its_manifest() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("k.json");
        for (program, expected) in
            [("bin/w", dir.path().join("bin/w")), ("/opt/w", "/opt/w".into()), ("w", "w".into())]
        {
            let mut manifest = good();
            manifest["program"] = json!(program);
            std::fs::write(&file, manifest.to_string()).expect("written");
            assert_eq!(read(&file).expect("a good manifest").program, expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
