use super::*;

/// Cases of a file: how each was made, the reason, and the lines.
fn cases(text: &str) -> Vec<(&str, &str, Vec<String>)> {
    let cases = text.split("\n# ").skip(1);
    cases
        .map(|case| {
            let (how, rest) = case.split_once("\n= ").unwrap();
            let (reason, lines) = rest.split_once('\n').unwrap();
            (how, reason, lines.lines().map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn what_real_engines_write_is_explained() {
    let llama_cpp = cases(include_str!("../../../tests/fixtures/reasons/llama.cpp.txt"));
    let vllm = cases(include_str!("../../../tests/fixtures/reasons/vllm.txt"));
    assert!(llama_cpp.len() >= 20 && vllm.len() >= 15);
    for (how, reason, lines) in llama_cpp.iter().chain(&vllm) {
        assert_eq!(explain(lines, Some(ExitStatus::Code(1))).as_deref(), Some(*reason), "{how}");
    }
}

fn because(lines: &[&str]) -> Option<String> {
    explain(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), None)
}

#[test]
fn no_path_and_no_escape_gets_out_of_a_log() {
    for (_, say) in causes::CAUSES {
        for rest in ["/home/anna/x'", "\u{1b}[2J'", "1\u{1b}]0;x\u{7}'", "", "…'", "…) (…/…, …", "((("]
        {
            let lines = [rest.to_owned()];
            let said = say(&Found { lines: &lines, before: "/home/anna: ", rest });
            assert!(!said.contains("anna") && said.chars().all(|c| !c.is_control()), "{said}");
        }
    }
    let long = format!("unknown model architecture: '{}'", "x".repeat(10_000));
    assert!(because(&[&long]).unwrap().len() < 200);
}

#[test]
fn marks_are_told_apart() {
    for (at, (mark, _)) in causes::CAUSES.iter().enumerate() {
        let hidden = causes::CAUSES[..at].iter().find(|(earlier, _)| mark.contains(earlier));
        assert!(hidden.is_none(), "{mark:?} is never reached");
    }
}

#[test]
fn what_was_overcome_is_no_reason() {
    let lines = [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 51748.72 MiB on device 1: cudaMalloc failed: out of memory",
        "graph_reserve: failed to allocate compute buffers",
        "sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism",
    ];
    assert!(because(&lines[..2]).is_some());
    assert_eq!(because(&lines), None);
    // As builds of 2025, of August and of October 2026 say that they serve.
    for served in [
        "main: server is listening on http://127.0.0.1:8080 - starting the main loop",
        "0.00.540.661 I srv  llama_server: listening on http://127.0.0.1:18998",
        "0.01.198.779 I srv          init: model loaded",
    ] {
        assert_eq!(because(&[lines[0], lines[1], served]), None, "{served}");
    }
    assert_eq!(because(&["hello", "", "Traceback (most recent call last):"]), None);
}

#[test]
fn what_argparse_says_of_a_value_is_explained() {
    let line =
        "llama-server: error: argument --cache-type-k: invalid choice: 'q9_9' (choose from 'f32', 'f16')";
    let reason = "the program does not take what the argument --cache-type-k was given";
    assert_eq!(because(&["usage: llama-server [-h] [--version]", line]).unwrap(), reason);
    let both = "vllm: error: argument -tp/--tensor-parallel-size: expected one argument";
    assert_eq!(because(&[both]).unwrap(), "the program does not take what the argument was given");
}

#[test]
fn an_exit_tells_where_the_log_does_not() {
    let by = |signal| explain(&[], Some(ExitStatus::Signal(signal)));
    assert!(by(SIGILL).unwrap().contains("instruction"));
    assert!(by(SIGKILL).unwrap().contains("memory"));
    assert_eq!(by(signal_hook::consts::SIGSEGV), None);
    assert!(explain(&[], Some(ExitStatus::Code(127))).unwrap().contains("not found"));
    assert!(explain(&[], Some(ExitStatus::Code(126))).unwrap().contains("not be executed"));
    assert_eq!(explain(&[], Some(ExitStatus::Code(1))), None);
    let line = ["CUDA error: out of memory".to_owned()];
    assert_eq!(explain(&line, Some(ExitStatus::Signal(6))).unwrap(), "no memory is left on the GPU");
}
