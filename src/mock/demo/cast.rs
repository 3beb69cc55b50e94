//! Who plays the worker: a stand-in on a model that the demo writes, or an engine on a model that exists.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::gguf;

/// A real engine and its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// A program that takes llama-server's arguments.
    pub program: PathBuf,
    /// A GGUF.
    pub model: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub struct Cast {
    is_engine: bool,
    /// `KIND=PROGRAM`
    program: String,
    model: String,
    model_dir: String,
}

impl Cast {
    /// This program as the worker, and a model that is written into `folder`.
    ///
    /// # Errors
    /// If the model cannot be written.
    pub fn stand_in(folder: &Path) -> Result<Self, String> {
        let model_dir = folder.join("models");
        let model = model_dir.join("demo.gguf");
        fs::create_dir(&model_dir)
            .and_then(|()| File::create(&model))
            .and_then(|mut file| gguf::write(&mut file))
            .map_err(|e| format!("cannot write a model: {e}"))?;
        let program = std::env::current_exe().map_err(|e| format!("this program is not found: {e}"))?;
        Self::new(false, &program, &model)
    }

    /// The engine, as it is given.
    ///
    /// # Errors
    /// If program or model are not there.
    pub fn engine(engine: &Engine) -> Result<Self, String> {
        let model = fs::canonicalize(&engine.model).map_err(|e| format!("--model: {e}"))?;
        // Not resolved: a program may go by the name it is called with.
        let program = std::path::absolute(&engine.program).map_err(|e| format!("--engine: {e}"))?;
        fs::metadata(&program).map_err(|e| format!("--engine: {e}"))?;
        Self::new(true, &program, &model)
    }

    fn new(is_engine: bool, program: &Path, model: &Path) -> Result<Self, String> {
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| format!("a path that is no UTF-8: {path:?}"))
        };
        let kind = if is_engine { "llama-server" } else { "llm-worker-rbee" };
        let model_dir = model.parent().ok_or("the model lies in no folder")?;
        Ok(Self {
            is_engine,
            program: format!("{kind}={}", text(program)?),
            model: text(model)?,
            model_dir: text(model_dir)?,
        })
    }

    /// The kind of the worker.
    pub fn kind(&self) -> &str {
        self.program.split_once('=').map_or("", |(kind, _)| kind)
    }

    /// What the hive must be told.
    pub fn hive_args(&self) -> [&str; 4] {
        ["--worker", &self.program, "--model-dir", &self.model_dir]
    }

    /// The body of the spawn.
    pub fn spawn_request(&self) -> Value {
        json!({ "model_ref": format!("file:{}", self.model), "kind": self.kind(), "device": "cpu" })
    }

    /// Where the worker takes work.
    pub fn path(&self) -> &'static str {
        if self.is_engine { "/v1/chat/completions" } else { "/v1/completions" }
    }

    /// Something short, for who can answer.
    pub fn question(&self) -> Option<Value> {
        self.is_engine.then(|| chat("What is the capital of France?", 32))
    }

    /// Something that keeps it busy.
    pub fn work_request(&self) -> Value {
        if !self.is_engine {
            return json!({ "prompt": "backwards sentence this says worker the", "ms": 300 });
        }
        let mut work = chat("Tell a long story about bees.", 160);
        work["ignore_eos"] = true.into();
        work
    }

    /// The text in the answer to a question.
    pub fn answer<'a>(&self, body: &'a Value) -> Option<&'a str> {
        let text = if self.is_engine { &body["choices"][0]["message"]["content"] } else { &body["text"] };
        text.as_str().filter(|text| !text.is_empty())
    }
}

fn chat(question: &str, tokens_max: u32) -> Value {
    let system = json!({ "role": "system", "content": "You are a helpful assistant." });
    json!({
        "messages": [system, { "role": "user", "content": question }],
        "max_tokens": tokens_max,
        "temperature": 0,
    })
}
