//! The documentation of the client has an example for each of its methods; `cargo test --doc` runs them.

use std::path::Path;

#[test]
fn every_method_of_the_client_has_an_example_that_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<_> =
        std::fs::read_dir(folder.join("client")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(folder.join("client.rs"));
    let mut methods = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("\nimpl HiveClient {\n").skip(1) {
            let block = block.split_once("\n}\n").unwrap().0;
            let mut docs = String::new();
            for line in block.lines().map(str::trim) {
                if line.starts_with("///") {
                    docs.push_str(line);
                    docs.push('\n');
                } else if let Some(method) = line.strip_prefix("pub fn ") {
                    let name = method.split(['(', '<']).next().unwrap();
                    assert!(docs.contains("/// ```\n"), "{}: {name} has no example", file.display());
                    assert!(docs.contains(&format!("{name}(")), "{name} does not occur in its example");
                    methods += 1;
                } else if !line.starts_with("#[") {
                    docs.clear();
                }
            }
        }
    }
    assert!(methods > 25, "{methods}");
}
