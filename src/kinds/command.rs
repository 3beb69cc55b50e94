//! From a kind and the values of a launch to a program and its arguments.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Kind, Protocol};
use crate::capacity::ledger::Placement;
use crate::id::WorkerId;

/// What one launch fills into a kind's templates.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The worker's name.
    pub worker_id: &'a WorkerId,
    /// The model on disk: a GGUF (the first shard of a split one) or a snapshot's folder.
    pub model_path: &'a Path,
    /// The model as it was asked for.
    pub model_ref: &'a str,
    /// What computes, where, and with how much memory.
    pub placement: &'a Placement,
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
        values.placement.backend.as_str().into(),
        "--device".into(),
        values.placement.device().into(),
        "--port".into(),
        values.port.to_string().into(),
        "--hive-url".into(),
        values.hive_url.into(),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::capacity::ledger::Share;
    use crate::id::{Backend, Device};
    use crate::kinds::{builtin, manifest};

    /// Shares of GPUs that have so many MiB in all; or of the cpu, if there is none.
    fn placement(shares: &[(Device, u64, u64)]) -> Placement {
        let on_cpu = shares.iter().any(|(device, ..)| *device == Device::Cpu);
        let backend = if on_cpu { Backend::Cpu } else { Backend::Cuda };
        let share = |&(device, mib, total_mib): &(Device, u64, u64)| Share {
            device,
            visible_as: String::new(),
            backend,
            total_bytes: total_mib << 20,
            bytes: mib << 20,
        };
        Placement { backend, shares: shares.iter().map(share).collect(), host_bytes: 0 }
    }

    static GPU1: LazyLock<Placement> = LazyLock::new(|| placement(&[(Device::Gpu(1), 6144, 24_576)]));

    fn values<'a>(worker_id: &'a WorkerId, model_path: &'a Path, extra_args: &'a [String]) -> Values<'a> {
        Values {
            worker_id,
            model_path,
            model_ref: "hf:org/tiny",
            placement: &GPU1,
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
             --n-gpu-layers 999 --tensor-split 0 --cache-ram 0 --ctx-checkpoints 0 --threads {port}"
        );
        let on = |shares: &[(Device, u64, u64)]| args(&Values { placement: &placement(shares), ..gpu });
        assert!(on(&[(Device::Cpu, 9, 99)]).contains("--n-gpu-layers 0 --tensor-split 0 "));
        let of_two = on(&[(Device::Gpu(1), 12_288, 24_576), (Device::Gpu(0), 8192, 12_288)]);
        assert!(of_two.contains("--n-gpu-layers 999 --tensor-split 12288,8192 "), "{of_two}");
        let sixteen: Vec<_> = (0..16).map(|n| (Device::Gpu(n), 1, 2)).collect();
        assert!(on(&sixteen[..15]).contains(&format!("--tensor-split {} ", ["1"; 15].join(","))));
        assert!(on(&sixteen).contains("--tensor-split 0 "), "llama.cpp takes one less than it has devices");
    }

    #[test]
    fn vllm_gets_the_fraction_that_takes_at_most_the_promise_of_any_card() {
        let id = "w-1".parse().expect("a worker id");
        let fraction = |shares: &[(Device, u64, u64)]| {
            let placement = placement(shares);
            let values = Values { placement: &placement, ..values(&id, Path::new("/m/x"), &[]) };
            let args = builtin("vllm").command(&values).args;
            let at = args.iter().position(|arg| arg == "--gpu-memory-utilization").expect("it is there");
            let text = args[at + 1].to_str().expect("ASCII");
            // As vLLM reads it: so many bytes of each card, rounded up.
            let taken =
                |share: &Share| (share.total_bytes as f64 * text.parse::<f64>().expect("a number")).ceil();
            assert!(placement.shares.iter().all(|share| taken(share) <= share.bytes as f64), "{text}");
            text.to_owned()
        };
        assert_eq!(fraction(&[(Device::Gpu(0), 6144, 24_576)]), "0.250000");
        assert_eq!(fraction(&[(Device::Gpu(0), 10_000, 24_576)]), "0.406901");
        assert_eq!(fraction(&[(Device::Gpu(0), 24_576, 24_576)]), "1.000000");
        let unequal = [(Device::Gpu(0), 10_000, 24_576), (Device::Gpu(1), 6000, 12_288)];
        assert_eq!(fraction(&unequal), "0.406901", "one for both: the smaller one");
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
