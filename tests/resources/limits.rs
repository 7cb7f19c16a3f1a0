//! Processes that may have few open files, or little memory.

use std::path::Path;

use serde_json::Value;

use crate::common::privilege::{self, Privilege};
use crate::machine::Machine;

#[test]
fn sixty_four_open_files_are_enough_for_a_few_layers_and_named_where_they_are_not() {
    privilege::under(&[Privilege::Root], |_| {
        for layers in [16, 100] {
            let mut machine = Machine::in_memory("size=80m");
            let archive = machine.archive("deep:1", layers);
            machine.must(&["load", "-i", &archive]);
            machine.edited("edited", "deep:1");
            machine.must(&["rmi", "--force", "deep:1"]);
            for words in [
                &["load", "-i", &archive][..],
                &["create", "--name", "new", "deep:1"],
                &["--driver", "copy", "create", "--name", "copy", "deep:1"],
                &["mount", "edited"],
                &["changes", "edited"],
                &["export", "-o", "/dev/null", "edited"],
                &["commit", "edited", "committed:1"],
                &["save", "-o", "/dev/null", "deep:1"],
                &["umount", "edited"],
                &["rm", "edited"],
                &["gc"],
                &["check", "--deep"],
            ] {
                machine.around = ["prlimit", "--nofile=64:64"].map(String::from).to_vec();
                let outcome = machine.attempt(words);
                machine.around.clear();
                // Each layer that is stacked is an open directory; whoever has too few is told so, and nothing is done.
                if let Err(error) = outcome {
                    assert!(layers > 50, "{words:?}: {error}");
                    machine.assert_named(words, &error, &["too-many-files"]);
                    assert_says_how_many(&error, 64);
                    println!("{words:?}: {}", error["error"]);
                    machine.must(words);
                }
            }
            machine.assert_sound();
        }
    });
}

#[test]
fn too_few_open_files_are_named() {
    privilege::under(&[Privilege::Root], |_| {
        let mut machine = Machine::in_memory("size=60m");
        let archive = machine.archive("deep:1", 20);
        machine.must(&["load", "-i", &machine.archive("other:1", 2)]);
        let before = machine.names();
        let mut worked = false;
        for files in [8, 12, 16, 20, 24, 32, 48] {
            machine.around = ["prlimit".to_owned(), format!("--nofile={files}:{files}")].to_vec();
            let words = ["load", "-i", &archive];
            match machine.attempt(&words) {
                Ok(_) => {
                    worked = true;
                    break;
                }
                Err(error) => {
                    assert_eq!(error["kind"], "too-many-files", "{files}: {error}");
                    assert_says_how_many(&error, files);
                }
            }
            machine.around.clear();
            assert_eq!(machine.names(), before);
        }
        machine.around.clear();
        assert!(worked);
        machine.assert_sound();
    });
}

/// Whether an error says the limit of the process, a higher number that is enough, and how to set it.
#[track_caller]
fn assert_says_how_many(error: &Value, limit: u64) {
    let number =
        |key: &str| -> u64 { error[key].as_str().unwrap_or_else(|| panic!("{error}")).parse().unwrap() };
    assert_eq!((number("limit"), number("hard_limit")), (limit, limit), "{error}");
    assert_eq!(error["scope"], "process", "{error}");
    let needed = number("needed");
    assert!(needed > 1000, "{error}");
    let hint = error["hint"].as_str().unwrap();
    for part in [
        format!("may have {limit} open files"),
        format!("`ulimit -n {needed}`"),
        format!("LimitNOFILE={needed} "),
    ] {
        assert!(hint.contains(&part), "{error}");
    }
}

/// What a process may write to is limited, and not what it may address: a thread's stack takes 2 MiB of addresses and
/// nearly nothing of memory, and a file that is mapped takes none.
#[test]
fn a_hundred_and_twenty_eight_mebibytes_are_enough() {
    privilege::under(&[Privilege::Root], |_| {
        let mut machine = Machine::in_memory("size=300m");
        let archive = machine.archive("one:1", 30);
        let limit = (128 << 20).to_string();
        machine.around = ["prlimit", &format!("--data={limit}:{limit}")].map(String::from).to_vec();
        machine.must(&["load", "-i", &archive]);
        machine.edited("edited", "one:1");
        let root = machine.must(&["mount", "edited"]);
        let large = Path::new(root["path"].as_str().unwrap()).join("large");
        std::fs::write(large, vec![b'l'; 60 << 20]).unwrap();
        machine.must(&["commit", "edited", "committed:1"]);
        machine.must(&["umount", "edited"]);
        machine.must(&["save", "-o", "/dev/null", "committed:1"]);
        machine.must(&["export", "-o", "/dev/null", "edited"]);
        machine.must(&["rm", "edited"]);
        machine.must(&["gc"]);
        machine.assert_sound();
    });
}
