//! The child between the hive and a program that is asked for its version: this program, started by the hive
//! as the leader of a group of its own.
//!
//! What the program prints, on stdout and stderr alike, goes to the hive through the stdout that the child was
//! given. The child's stdin is a lifeline: when the hive ends, however it ends, the child kills the group.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::process::{Command, ExitCode, Stdio};

use crate::thread::Joined;

/// The command that starts it; not in any help. Its arguments are the program and the program's own.
pub const COMMAND: &str = "ask-version";

/// Runs the program, and ends as it does.
pub fn main(args: &[OsString]) -> ExitCode {
    run(args).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(args: &[OsString]) -> io::Result<u8> {
    let (program, args) = args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let lifeline = Joined::spawn(
        "lifeline",
        || {},
        || {
            // An error is an end as well.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            if rustix::process::getpgrp() == rustix::process::getpid() {
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
            }
            std::process::exit(1)
        },
    )?;
    // Not joined: it ends with this process.
    std::mem::forget(lifeline);
    let stderr = io::stdout().as_fd().try_clone_to_owned()?;
    let status = Command::new(program).args(args).stdin(Stdio::null()).stderr(stderr).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
