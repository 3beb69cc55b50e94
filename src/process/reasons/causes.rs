//! What engines write when they fail, and what that means to a person.

use super::{Found, Say, name, number, quantity};

const NO_GPU: &str = "the engine finds no GPU: there is none, or its driver does not work";
pub(super) const NO_INSTRUCTION: &str = "the processor lacks an instruction that the program was built for";
const REMOTE_CODE: &str =
    "the model comes with code of its own, which the engine runs only with --trust-remote-code";

/// What is in a line, and what that means. The first of the table that is in some line is the reason: causes
/// stand before what follows from them.
pub(super) const CAUSES: &[(&str, Say)] = &[
    // llama.cpp: files.
    ("failed to load multimodal model", |_| {
        "the model's projector (mmproj) cannot be loaded: it is missing, or none of this model's".into()
    }),
    ("failed to load lora adapter", |_| "an adapter (LoRA) cannot be loaded".into()),
    ("failed to apply lora adapter", |_| "an adapter (LoRA) is not made for this model".into()),
    ("data is not within the file bounds", |_| {
        "the model file is truncated: some of its tensors lie beyond its end".into()
    }),
    ("exceeds remaining file size", |_| "the model file is truncated: it ends within its header".into()),
    ("invalid magic characters: '", |found| {
        format!(
            "the model is no GGUF file{}",
            found.name().map(|magic| format!(": it begins with {magic}")).unwrap_or_default()
        )
    }),
    ("failed to read magic", |_| "the model is no GGUF file: it is empty, or a folder".into()),
    ("this GGUF file is version ", |found| {
        format!(
            "the model file is GGUF version {}, which the engine is too old for",
            found.number().unwrap_or("unknown")
        )
    }),
    ("has invalid ggml type ", |found| {
        format!(
            "the engine does not know tensor type {} of the model: it is too old for it, or the file is damaged",
            found.number().unwrap_or("?")
        )
    }),
    ("incorrect shape for a tensor", |_| {
        "the model file is damaged: a tensor has an impossible shape".into()
    }),
    ("unknown model architecture: '", |found| {
        format!(
            "the engine does not know the model's architecture{}: it may be too old for it",
            found.named()
        )
    }),
    ("unknown pre-tokenizer type: '", |found| {
        format!("the engine does not know the model's tokenizer{}: it may be too old for it", found.named())
    }),
    ("unknown tokenizer: '", |found| {
        format!("the engine does not know the model's tokenizer{}: it may be too old for it", found.named())
    }),
    ("check_tensor_dims: tensor '", |found| match found.find("' not found") {
        Some(_) => missing_tensor(found),
        None => format!(
            "the model's tensors are not those of its architecture{}: it is damaged, or the engine too old for it",
            found.named()
        ),
    }),
    ("missing tensor '", missing_tensor),
    ("failed to open GGUF file", |found| unopened(found.rest)),
    ("chat template parsing error", |_| "the chat template is broken: the engine cannot read it".into()),
    ("failed to initialize chat template", |_| {
        "the chat template is broken: the engine cannot read it".into()
    }),
    // llama.cpp: memory.
    ("failed to allocate buffer for kv cache", |found| no_memory(&format!("for {}", found.context()), found)),
    ("failed to allocate buffer for rs cache", |found| no_memory(&format!("for {}", found.context()), found)),
    ("failed to allocate compute buffers", |found| {
        no_memory(&format!("for the compute buffers of {}", found.context()), found)
    }),
    ("error loading model: unable to allocate", |found| no_memory("for the model's weights", found)),
    ("cudaMalloc failed: out of memory", |found| no_memory("is left on the GPU", found)),
    ("CUDA error: out of memory", |_| "no memory is left on the GPU".into()),
    ("ErrorOutOfDeviceMemory", |_| "no memory is left on the GPU".into()),
    ("insufficient memory (attempted to allocate", |found| no_memory("is left", found)),
    ("std::bad_alloc", |_| "no memory is left".into()),
    // llama.cpp: the machine, the command line.
    ("couldn't bind HTTP server socket", |found| {
        let port = found.find("port: ").and_then(number).map(|port| format!(" {port}")).unwrap_or_default();
        format!("the port{port} cannot be bound: it is taken, or the address is none of this machine's")
    }),
    ("error: invalid argument: ", |found| unknown_argument(found)),
    ("error while handling argument \"", wrong_value),
    ("CUDA driver version is insufficient", |_| "the GPU's driver is too old for the program".into()),
    ("no kernel image is available for execution", |_| "the program was not built for this GPU".into()),
    ("no CUDA-capable device is detected", |_| NO_GPU.into()),
    // vLLM: memory.
    ("To serve at least one request with the model", kv_cache_too_small),
    ("The model's max seq len (", |found| {
        let holds = found.find("stored in KV cache (").and_then(number);
        let holds = holds.map(|tokens| format!(": the KV cache holds {tokens} tokens")).unwrap_or_default();
        format!("no memory for a context of {}{holds}", found.number().unwrap_or("that size"))
    }),
    ("No available memory for the cache blocks", |_| {
        "no memory is left for the KV cache: the weights take all that the engine may use".into()
    }),
    ("Free memory on device", |found| {
        let pair = found.find("(").and_then(|text| Some((number(text)?, number(text.split_once('/')?.1)?)));
        let needs =
            found.find("desired GPU memory utilization (").and_then(|text| number(text.split_once(", ")?.1));
        match (pair, needs) {
            (Some((free, total)), Some(needs)) => {
                format!(
                    "others use the GPU: {free} of {total} GiB are free, and the engine was to take {needs}"
                )
            }
            _ => "others use the GPU: less is free than the engine was to take".into(),
        }
    }),
    ("OutOfMemoryError: CUDA out of memory", |found| {
        let asked = found.find("Tried to allocate ").and_then(quantity);
        let free = found.find("of which ").and_then(quantity);
        let asked = asked.map(|asked| format!(": {asked} more were needed")).unwrap_or_default();
        let free = free.map(|free| format!(", {free} were free")).unwrap_or_default();
        format!("no memory is left on the GPU{asked}{free}")
    }),
    // vLLM: models.
    ("User-specified max_model_len (", |found| {
        let most = found
            .find("derived max_model_len (")
            .and_then(|text| number(text.split_once('=').map_or(text, |at| at.1)));
        let most = most.map(|most| format!(": it was made for {most}")).unwrap_or_default();
        format!("the model does not take a context of {}{most}", found.number().unwrap_or("that size"))
    }),
    ("Model architectures ['", |found| {
        format!(
            "the engine does not know the model's architecture{}: it may be too old for it",
            found.named()
        )
    }),
    ("model type `", |found| {
        format!(
            "the transformers library does not know the model's type{}: it may be too old for it",
            found.named()
        )
    }),
    ("trust_remote_code=True", |_| REMOTE_CODE.into()),
    ("contains custom code which must be executed", |_| REMOTE_CODE.into()),
    ("You are trying to access a gated repo", |_| {
        "the model is gated: ask for access on its page of the hub".into()
    }),
    ("does not appear to have a file named config.json", |_| {
        "the model's folder has no config.json: it is no model for this engine".into()
    }),
    ("SafetensorError", |_| "a safetensors file of the model is truncated or damaged".into()),
    ("Bfloat16 is only supported on GPUs", |_| {
        "the GPU is too old for bfloat16: let the engine use float16 (--dtype half)".into()
    }),
    // vLLM: devices.
    ("World size (", |found| {
        let have = found.find("number of available GPUs (").and_then(number);
        let have = have.map(|have| format!(", and sees {have}")).unwrap_or_default();
        format!("the engine was to use {} GPUs{have}", found.number().unwrap_or("more"))
    }),
    ("Total number of attention heads (", |found| {
        let parts = found.find("tensor parallel size (").and_then(number).unwrap_or("so many");
        format!(
            "the model cannot be split over {parts} GPUs: its {} attention heads do not divide",
            found.number().unwrap_or("few")
        )
    }),
    ("Failed to infer device type", |_| NO_GPU.into()),
    ("No CUDA GPUs are available", |_| NO_GPU.into()),
    ("Found no NVIDIA driver on your system", |_| NO_GPU.into()),
    ("CUDA error: no kernel image", |_| "the program was not built for this GPU".into()),
    // Any program.
    ("ModuleNotFoundError: No module named '", |found| {
        format!("the Python module{} is missing", found.spaced_name())
    }),
    (": cannot open shared object file", |found| {
        let library = found.before.rsplit([' ', ':']).next().and_then(name);
        format!("the shared library{} is missing", library.map(|name| format!(" {name}")).unwrap_or_default())
    }),
    ("version `GLIBC", |_| "the system's C library is too old for the program".into()),
    ("unrecognized arguments: ", |found| unknown_argument(found)),
    (": error: argument ", wrong_value),
    ("[Errno 98]", |_| "its port is taken".into()),
    ("Address already in use", |_| "its port is taken".into()),
    ("Illegal instruction", |_| NO_INSTRUCTION.into()),
];

fn no_memory(what: &str, found: &Found<'_>) -> String {
    let needed = found.needed().map(|needed| format!(": {needed}")).unwrap_or_default();
    format!("no memory {what}{needed}")
}

fn unopened(rest: &str) -> String {
    let why = match rest {
        _ if rest.contains("No such file") => "was not found",
        _ if rest.contains("Permission denied") => "may not be read",
        _ => "cannot be opened",
    };
    format!("the model file {why}")
}

fn missing_tensor(found: &Found<'_>) -> String {
    format!("the model lacks the tensor{}: it is damaged, or the engine too old for it", found.named())
}

fn wrong_value(found: &Found<'_>) -> String {
    format!("the program does not take what the argument{} was given", found.spaced_name())
}

fn unknown_argument(found: &Found<'_>) -> String {
    format!("the program does not know the argument{}", found.spaced_name())
}

fn kv_cache_too_small(found: &Found<'_>) -> String {
    let context = found.find("max seq len (").and_then(number).unwrap_or("that size");
    let needed = found.find("), (").and_then(quantity);
    let free = found.find("available KV cache memory (").and_then(quantity);
    let most = found.find("estimated maximum model length is ").and_then(number);
    let needed = needed.map(|needed| format!(": its KV cache takes {needed}")).unwrap_or_default();
    let free = free.map(|free| format!(", {free} are there")).unwrap_or_default();
    let most = most.map(|most| format!("; at most {most} tokens fit")).unwrap_or_default();
    format!("no memory for a context of {context}{needed}{free}{most}")
}
