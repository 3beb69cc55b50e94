//! Logs are followed across everything that happens to them.

use std::io::Write as _;

use rbee_hive::http::{Pull, Source as _};
use rbee_hive::limits;
use rbee_hive::process::follow::TooManyFollowers;

use crate::support::{Hive, id};

#[test]
fn a_follower_gets_the_tail_then_each_line_across_rotations_then_the_end() {
    let hive = Hive::new();
    let mut log = hive.logs.open(&id("w")).unwrap();
    log.write_all(b"skipped\nlast\n").unwrap();
    let mut reader = hive.follow("w", 1);
    reader.until("data: last");
    for i in 0..20 {
        // The ends of the characters come after the rotation.
        let line = format!("line {i} grün\n").into_bytes();
        log.write_all(&line[..line.len() - 3]).unwrap();
        hive.logs.rotate(&id("w")).unwrap();
        log.write_all(&line[line.len() - 3..]).unwrap();
        reader.until(&format!("data: line {i} grün"));
    }
    log.write_all(b"no end of line").unwrap();
    hive.followers.as_ref().unwrap().ended(&id("w"));
    let lines: String = (0..20).map(|i| format!("data: line {i} grün\n\n")).collect();
    let expected = format!("data: last\n\n{lines}data: no end of line\n\ndata: [DONE]\n\n");
    assert_eq!(reader.rest(), expected);
}

#[test]
fn a_log_that_is_not_there_yet_is_followed_from_its_beginning() {
    let hive = Hive::new();
    let mut reader = hive.follow("w", 10);
    hive.script("echo begun; exec sleep 1000");
    reader.until("data: begun");
    hive.signal(rbee_hive::lifecycle::event::Signal::Kill);
    hive.expect_end(rbee_hive::lifecycle::event::ExitStatus::Signal(9));
    hive.followers.as_ref().unwrap().ended(&id("w"));
    assert_eq!(reader.rest(), "data: begun\n\ndata: [DONE]\n\n");
}

#[test]
fn a_log_that_begins_in_a_folder_made_anew_is_followed() {
    let hive = Hive::new();
    let moved = hive.logs.dir().with_extension("moved");
    std::fs::rename(hive.logs.dir(), moved).unwrap();
    let mut reader = hive.follow("w", 10);
    hive.script("echo begun; exec sleep 1000");
    reader.until("data: begun");
}

#[test]
fn a_reader_that_does_not_read_stops_the_reading_and_loses_nothing() {
    let hive = Hive::new();
    let lines: Vec<String> = (0..200_000).map(|i| format!("line {i}")).collect();
    hive.logs.open(&id("w")).unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
    let mut slow = hive.follow("w", 0);
    let reader = hive.follow("w", 200_000);
    hive.followers.as_ref().unwrap().ended(&id("w"));
    let text = reader.rest();
    let read: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    // The tail itself is bounded in bytes.
    let tail = limits::LOG_TAIL_BYTES_MAX as usize;
    let kept = read.len() - 1;
    assert_eq!(read[..kept], lines[lines.len() - kept..]);
    assert!(read[..kept].iter().map(|line| line.len() + 1).sum::<usize>() > tail - 20);
    assert_eq!(read[kept], "[DONE]");
    let mut out = Vec::new();
    while slow.stream.pull(&mut out, 1000) != Pull::End {}
    assert_eq!(out, b"data: [DONE]\n\n");
}

#[test]
fn a_reader_whom_the_log_has_outrun_is_told_how_much_it_misses() {
    let hive = Hive::new();
    let mut log = hive.logs.open(&id("w")).unwrap();
    let slow = hive.follow("w", 10);
    let mut quick = hive.follow("w", 10);
    let text: String = (1..=4_000_000).map(|n| format!("{n}\n")).collect();
    log.write_all(text.as_bytes()).unwrap();
    quick.until("data: 1");
    hive.logs.rotate(&id("w")).unwrap();
    hive.followers.as_ref().unwrap().ended(&id("w"));
    let seen = slow.rest();
    let lines: Vec<&str> = seen.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let at = lines.iter().position(|line| line.ends_with(" bytes are lost ---")).expect("a gap");
    let lost: usize = lines[at].split(' ').nth(1).unwrap().parse().unwrap();
    let (before, after) = (lines[..at].join("\n"), lines[at + 1..lines.len() - 1].join("\n") + "\n");
    assert!(text.starts_with(&before) && text.ends_with(&after), "the rest is there once and in order");
    let line_end = text.len() - before.len() - lost - after.len();
    assert!(line_end <= 1 && lost > text.len() / 4, "{line_end} {lost} of {}", text.len());
}

#[test]
fn followers_are_bounded_and_a_place_is_free_again_when_one_goes() {
    let hive = Hive::new();
    let followers = hive.followers.as_ref().unwrap();
    let follow = || followers.follow(id("w"), 0, None, Box::new(|| ()));
    let mut all: Vec<_> = (0..limits::FOLLOWERS_MAX).map(|_| follow().unwrap()).collect();
    assert_eq!(follow().err(), Some(TooManyFollowers));
    all.pop();
    assert!(follow().is_ok());
}

#[test]
fn the_end_of_the_thread_ends_its_streams() {
    let mut hive = Hive::new();
    let reader = hive.follow("w", 0);
    hive.followers = None;
    assert_eq!(reader.rest(), "");
}
