//! From a kind and the values of a launch to a program and its arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Kind, Protocol};
use crate::id::{Backend, WorkerId};

/// What one launch fills into a kind's templates.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The worker's name.
    pub worker_id: &'a WorkerId,
    /// The model on disk: a GGUF (the first shard of a split one) or a snapshot's folder.
    pub model_path: &'a Path,
    /// The model as it was asked for.
    pub model_ref: &'a str,
    /// What computes.
    pub backend: Backend,
    /// Where: a device's name, or several joined by commas.
    pub device: &'a str,
    /// How many devices.
    pub device_count: usize,
    /// The part of each of its devices' memory that it was promised, from 0 to 1.
    pub memory_fraction: f64,
    /// The address to bind.
    pub host: &'a str,
    /// The port to bind.
    pub port: u16,
    /// Where the hive is called.
    pub hive_url: &'a str,
    /// Context tokens, shared by all slots.
    pub ctx: u32,
    /// Slots.
    pub parallel: u32,
    /// Arguments of the spawn, checked by [`super::allow::extra_args`]; appended as they stand.
    pub extra_args: &'a [String],
}

/// What is executed: a vector of arguments that no shell sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The kind's program as written; [`super::find_program`] tells where it is.
    pub program: PathBuf,
    /// Arguments, without the program itself.
    pub args: Vec<OsString>,
    /// The kind's own environment, by name.
    pub env: Vec<(String, OsString)>,
}

impl Kind {
    /// The command line of one launch: the kind's arguments, then those of the native protocol, then
    /// those of the spawn.
    pub fn command(&self, values: &Values<'_>) -> CommandLine {
        let mut args: Vec<OsString> = self.args.iter().map(|arg| arg.fill(values)).collect();
        if self.protocol == Protocol::Native {
            args.extend(native_args(values));
        }
        args.extend(values.extra_args.iter().map(OsString::from));
        let env = self.env.iter().map(|(name, value)| (name.clone(), value.fill(values))).collect();
        CommandLine { program: self.program.clone(), args, env }
    }
}

fn native_args(values: &Values<'_>) -> [OsString; 14] {
    [
        "--worker-id".into(),
        values.worker_id.as_str().into(),
        "--model".into(),
        values.model_path.into(),
        "--model-ref".into(),
        values.model_ref.into(),
        "--backend".into(),
        values.backend.as_str().into(),
        "--device".into(),
        values.device.into(),
        "--port".into(),
        values.port.to_string().into(),
        "--hive-url".into(),
        values.hive_url.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{builtin, manifest};

    fn values<'a>(worker_id: &'a WorkerId, model_path: &'a Path, extra_args: &'a [String]) -> Values<'a> {
        Values {
            worker_id,
            model_path,
            model_ref: "hf:org/tiny",
            backend: Backend::Cuda,
            device: "gpu1",
            device_count: 1,
            memory_fraction: 0.25,
            host: "127.0.0.1",
            port: 8601,
            hive_url: "http://127.0.0.1:8600",
            ctx: 4096,
            parallel: 2,
            extra_args,
        }
    }

    fn builtin(name: &str) -> Kind {
        builtin::kinds().into_iter().find(|k| k.name == name).expect("a built-in kind")
    }

    #[test]
    fn a_hostile_file_name_stays_one_argument() {
        let id = "w-1".parse().expect("a worker id");
        let path = Path::new("/m/a b \"c\" '$(reboot)' {port} {{port}}.gguf");
        let command = builtin("llama-server").command(&values(&id, path, &[]));
        assert_eq!(command.args[..2], [OsString::from("--model"), path.into()]);
    }

    #[test]
    fn llama_server_gets_its_device_and_bounds() {
        let id = "w-1".parse().expect("a worker id");
        let extra = ["--threads".to_owned(), "{port}".to_owned()];
        let gpu = values(&id, Path::new("/m/x.gguf"), &extra);
        let args = |v: &Values<'_>| {
            let args = builtin("llama-server").command(v).args;
            args.into_iter().map(|a| a.into_string().expect("ASCII")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            args(&gpu),
            "--model /m/x.gguf --host 127.0.0.1 --port 8601 --ctx-size 4096 --parallel 2 \
             --n-gpu-layers 999 --cache-ram 0 --ctx-checkpoints 0 --threads {port}"
        );
        let cpu = Values { backend: Backend::Cpu, device: "cpu", ..gpu };
        assert!(args(&cpu).contains("--n-gpu-layers 0 "));
    }

    #[test]
    fn a_native_kind_gets_its_own_arguments_first() {
        let manifest = br#"{"kind":"n","protocol":"native","program":"n","backends":["cpu"],
            "args":["run","--index={device_index}"],"env":{"URL":"{hive_url}"}}"#;
        let kind = manifest::parse(manifest).expect("a good manifest");
        let id = "w-1".parse().expect("a worker id");
        let command = kind.command(&values(&id, Path::new("/m/x"), &["--last".to_owned()]));
        let args: Vec<_> = command.args.iter().map(|a| a.to_str().expect("ASCII")).collect();
        assert_eq!(
            args.join(" "),
            "run --index=0 --worker-id w-1 --model /m/x --model-ref hf:org/tiny --backend cuda --device gpu1 \
             --port 8601 --hive-url http://127.0.0.1:8600 --last"
        );
        assert_eq!(command.env, [("URL".to_owned(), "http://127.0.0.1:8600".into())]);
    }

    #[test]
    fn a_path_that_is_no_unicode_arrives_whole() {
        use std::os::unix::ffi::OsStrExt as _;
        let id = "w-1".parse().expect("a worker id");
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/m/\xff.gguf"));
        let command = builtin("vllm").command(&values(&id, path, &[]));
        assert_eq!(command.args[1], path);
    }
}
