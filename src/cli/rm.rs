//! `rbee-hive rm`: deletes a model from a hive's cache.

use serde_json::json;

use super::client::{Hive, JSON, TOKEN_FILE, Typed, URL, model};
use super::command::{Flag, Spec, Words};
use super::{CliError, Environment, Output, Task, task};
use crate::client::ClientError;

/// What is to be deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    hive: Hive,
    model: String,
    json: bool,
}

pub(super) const COMMAND: Spec<Typed> = Spec {
    name: "rm",
    summary: "Delete a model",
    about: "Delete a model from the hive's cache. What other models share stays.",
    notes: "\
MODEL is hf:org/repo for all of it, hf:org/repo@revision for that revision, or
hf:org/repo:QUANT or hf:org/repo:path/file.gguf for that file alone.
",
    words: Some(Words { name: "MODEL", most: 1, set: super::capacity::model }),
    flags: &FLAGS,
    read: |typed, env| task(command(&typed, env)),
};

const FLAGS: [Flag<Typed>; 3] = [JSON_LINE, URL, TOKEN_FILE];

const JSON_LINE: Flag<Typed> = Flag { default: "a line", help: "Print what was deleted as JSON", ..JSON };

/// What `typed` and `env` mean.
pub(super) fn command(typed: &Typed, env: Environment<'_>) -> Result<Command, CliError> {
    let model = model(typed, "rbee-hive rm hf:org/repo:Q4_K_M")?;
    Ok(Command { hive: Hive::new(typed, env)?, model, json: typed.json })
}

impl Task for Command {
    /// Deletes it, and gives what is to be printed on stdout.
    ///
    /// # Errors
    /// If no hive answers, or it says no: the model is not there, or somebody uses it.
    fn run(&self) -> Result<Output, CliError> {
        let client = self.hive.client()?;
        match client.delete_model(&self.model) {
            Ok(()) if self.json => Ok((json!({ "deleted": self.model }).to_string() + "\n").into()),
            Ok(()) => Ok(format!("deleted {}\n", self.model).into()),
            Err(ClientError::Refused { status, error: Some(error) }) if status == 404 || status == 409 => {
                let hint = match status {
                    404 => "`rbee-hive models` lists what there is",
                    _ => "try again once nobody uses it: stop its workers, or wait for its download",
                };
                let message = error.message.replace(char::is_control, "?");
                Err(CliError::runtime(message).with_hint(hint))
            }
            Err(error) => Err(self.hive.explain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// What becomes of `rm` with a hive that answers so, and its request.
    fn rm(status: &str, body: &str) -> (Result<Output, CliError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hive = Hive { url: format!("http://{}", listener.local_addr().unwrap()), token: None };
        let command = Command { hive, model: "hf:o/r:Q8_0@v1".to_owned(), json: false };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request[..count].to_vec()).unwrap()
            });
            (command.run(), server.join().unwrap())
        })
    }

    #[test]
    fn what_is_gone_or_used_is_explained() {
        let (done, request) = rm("204 No Content", "");
        assert_eq!(done, Ok("deleted hf:o/r:Q8_0@v1\n".to_owned().into()));
        assert!(
            request.starts_with("DELETE /v1/models?ref=hf%3Ao%2Fr%3AQ8%5F0%40v1 HTTP/1.1\r\n"),
            "{request}"
        );
        let body = r#"{"error":{"code":"X","message":"a worker uses the model","correlation_id":"x"}}"#;
        let error = rm("409 Conflict", body).0.unwrap_err();
        assert!(error.message == "a worker uses the model" && error.hint.is_some(), "{error}");
        let error = rm("404 Not Found", body).0.unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("`rbee-hive models` lists what there is"));
    }
}
