//! Real folders, laid out as `huggingface_hub` does it, and what may lie in them besides.

use std::os::unix::fs::symlink;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::models::cache::Missing;
use crate::models::layout;

const NOBODY: &[PathBuf] = &[];

struct Cache {
    dir: tempfile::TempDir,
    catalog: Catalog,
}

impl Cache {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("hub")).expect("made");
        let catalog = Catalog::new(&dir.path().join("hub"));
        Self { dir, catalog }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("hub")
    }

    /// A path in the repository `hf:org/tiny`.
    fn at(&self, path: &str) -> PathBuf {
        self.root().join("models--org--tiny").join(path)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> &Self {
        fs::create_dir_all(self.at(path).parent().expect("it lies in a folder")).expect("made");
        fs::write(self.at(path), bytes).expect("written");
        self
    }

    fn link(&self, path: &str, target: &str) -> &Self {
        fs::create_dir_all(self.at(path).parent().expect("it lies in a folder")).expect("made");
        symlink(target, self.at(path)).expect("made");
        self
    }

    /// A file of a snapshot with its blob, which has as many bytes as its name.
    fn add(&self, commit: &str, name: &str, blob: &str) -> &Self {
        self.write(&format!("blobs/{blob}"), blob.as_bytes());
        let up = "../".repeat(2 + name.matches('/').count());
        self.link(&format!("snapshots/{commit}/{name}"), &format!("{up}blobs/{blob}"))
    }

    fn list(&self) -> Vec<Model> {
        self.catalog.list(NOBODY)
    }

    fn only(&self) -> Model {
        let mut models = self.list();
        assert_eq!(models.len(), 1, "{models:?}");
        models.remove(0)
    }

    fn delete(&self, reference: &str) -> Result<(), DeleteError> {
        self.delete_unless(reference, NOBODY)
    }

    fn delete_unless(&self, reference: &str, used: &[PathBuf]) -> Result<(), DeleteError> {
        let Ok(ModelRef::Hub(hub)) = reference.parse() else { panic!("a good reference") };
        self.catalog.delete(&hub, used)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(folder)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn names(model: &Model) -> Vec<&str> {
    model.files.iter().map(|file| file.name.as_str()).collect()
}

#[test]
fn a_snapshot_is_told_with_its_files_and_each_blob_counts_once() {
    let cache = Cache::new();
    cache.add("c1", "m.gguf", "abcd").add("c1", "sub/again.gguf", "abcd").add("c1", "config.json", "xy");
    cache.write("refs/main", b"c1").write("refs/refs/pr/1", b"c1").write("refs/v1", b"c0");
    let model = cache.only();
    assert_eq!((model.model_ref.as_str(), model.revision.as_deref()), ("hf:org/tiny", Some("c1")));
    assert_eq!(model.refs, ["main", "refs/pr/1"]);
    assert_eq!(names(&model), ["config.json", "m.gguf", "sub/again.gguf"]);
    assert_eq!((model.size_bytes, model.leftover_bytes, model.partial, model.in_use), (6, 0, false, false));
    let written = fs::metadata(cache.at("blobs/abcd")).expect("it is there").modified().expect("a time");
    assert!(model.last_used >= Some(rfc3339(written)));
    assert!(cache.catalog.list(&[cache.at("snapshots/c1")])[0].in_use);
    assert!(!cache.catalog.list(&[cache.at("snapshots/c")])[0].in_use);
}

#[test]
fn a_change_shows_at_once_however_often_it_was_listed() {
    let cache = Cache::new();
    assert_eq!(cache.list(), []);
    cache.add("c1", "m-00001-of-00002.gguf", "abcd");
    assert!(cache.only().partial, "a shard is missing");
    cache.add("c1", "m-00002-of-00002.gguf", "efgh");
    assert!(!cache.only().partial);
    cache.write("blobs/late.incomplete", &[0; 5000]);
    let model = cache.only();
    assert!(model.partial && model.leftover_bytes == 5000, "{model:?}");
    cache.write("blobs/late.incomplete", &[0; 9000]).write("blobs/late.incomplete.parts", &[0; 10]);
    assert_eq!(cache.only().leftover_bytes, 9010, "it grows without a change of its folder");
    fs::remove_file(cache.at("blobs/efgh")).expect("removed");
    let model = cache.only();
    assert_eq!(
        (names(&model), model.broken.as_slice()),
        (vec!["m-00001-of-00002.gguf"], &["m-00002-of-00002.gguf".to_owned()][..])
    );
    fs::remove_dir_all(cache.at("")).expect("removed");
    assert_eq!(cache.list(), []);
}

#[test]
fn a_repository_that_is_still_the_same_is_not_read_again() {
    let cache = Cache::new();
    cache.add("c1", "m.gguf", "abcd").write("refs/main", b"c1");
    let path = cache.root().join("models--org--tiny");
    let read = || Repository::read(&cache.root(), &path).expect("read");
    let here = scan::open(&path).expect("it is there");
    assert!(!read().is_current(&here), "too young to be believed");
    let mut settled = read();
    settled.trust();
    assert!(settled.is_current(&here));
    let changes: [&dyn Fn(); 5] = [
        &|| _ = cache.write("refs/main", b"c2"),
        &|| _ = cache.write("refs/v1", b"c1"),
        &|| _ = cache.add("c1", "n.gguf", "efgh"),
        &|| _ = cache.write("blobs/x", b""),
        &|| _ = cache.add("c2", "m.gguf", "abcd"),
    ];
    for change in changes {
        let mut before = read();
        before.trust();
        change();
        assert!(!before.is_current(&here));
    }
}

#[test]
fn the_newest_snapshot_comes_first_and_has_the_leftovers() {
    let cache = Cache::new();
    cache.add("b-old", "m.gguf", "abcd").add("a-new", "m.gguf", "efgh").write("blobs/nobodys", &[1; 4096]);
    let old = SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(cache.at("snapshots/b-old")).and_then(|folder| folder.set_modified(old)).expect("set");
    let told: Vec<_> = cache.list().into_iter().map(|m| (m.revision, m.leftover_bytes, m.partial)).collect();
    assert_eq!(told, [(Some("a-new".into()), 4096, false), (Some("b-old".into()), 0, false)]);
}

#[test]
fn a_repository_of_leftovers_has_no_revision() {
    let cache = Cache::new();
    cache.write("blobs/x.incomplete", &[1; 4096]);
    fs::create_dir(cache.at("snapshots")).expect("made");
    let model = cache.only();
    assert_eq!((model.revision, model.partial, model.leftover_bytes), (None, true, 4096));
    assert_eq!((model.files, model.size_bytes, model.last_used.is_some()), (vec![], 0, true));
    cache.delete("hf:org/tiny").expect("deleted");
    assert_eq!(cache.list(), []);
}

#[test]
fn strange_things_are_passed_over_and_links_do_not_lead_out() {
    let cache = Cache::new();
    fs::write(cache.dir.path().join("secret"), b"secret").expect("written");
    cache.add("c1", "m.gguf", "abcd").add("c1", "a\nb\u{1b}[2J", "efgh");
    cache.link("snapshots/c1/out.gguf", "../../../../secret").link("snapshots/c1/loop", "loop");
    cache.link("snapshots/c1/up", "..").link("snapshots/c2", "c1").link("blobs/out", "../../../secret");
    cache.link("snapshots/c1/via.gguf", "../../blobs/out").write("snapshots/file", b"");
    cache.link("refs/out", "../../../secret").write("refs/bytes", b"\xff\xfe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        cache.at("blobs/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("made");
    cache.link("snapshots/c1/pipe", "../../blobs/pipe").link("../models--a--b", "models--org--tiny");
    for folder in ["models--gpt2", "datasets--a--b", "models--a--b--c", "models----", ".locks"] {
        fs::create_dir_all(cache.root().join(folder).join("snapshots/c1")).expect("made");
    }
    fs::write(cache.root().join("models--o--file"), b"").expect("written");
    let model = cache.only();
    assert_eq!(names(&model), [r"a\nb\u{1b}[2J", "m.gguf"]);
    assert_eq!(model.broken, ["loop", "out.gguf", "pipe", "up", "via.gguf"]);
    assert!(model.partial && model.refs.is_empty());
    cache.delete("hf:org/tiny").expect("deleted");
    assert!(!cache.at("").exists() && cache.dir.path().join("secret").exists());
}

#[test]
fn a_blob_may_be_a_link_into_the_store_that_repositories_share() {
    let cache = Cache::new();
    let store = cache.root().join("blobs/ab/payload");
    fs::create_dir_all(store.parent().expect("a folder")).expect("made");
    fs::write(&store, b"shared").expect("written");
    cache.link("blobs/one", "../../blobs/ab/payload").link("blobs/two", "../../blobs/ab/payload");
    cache.link("snapshots/c1/a.gguf", "../../blobs/one").link("snapshots/c1/b.gguf", "../../blobs/two");
    let model = cache.only();
    assert_eq!((names(&model), model.size_bytes, model.leftover_bytes), (vec!["a.gguf", "b.gguf"], 6, 0));
    cache.delete("hf:org/tiny:a.gguf@c1").expect("deleted");
    assert_eq!(cache.names("blobs"), ["two"]);
    cache.delete("hf:org/tiny").expect("deleted");
    assert!(store.exists(), "it belongs to all");
}

#[test]
fn a_whole_repository_goes_with_its_leftovers_and_locks() {
    let cache = Cache::new();
    cache.add("c1", "m.gguf", "abcd").write("refs/main", b"c1").write("blobs/x.incomplete", b"x");
    cache.write(".no_exist/c1/config.json", b"").write("blobs/sub/strange", b"").write("notes.txt", b"");
    assert_eq!(cache.delete("hf:org/tiny"), Ok(()));
    assert!(!cache.at("").exists() && !cache.root().join(".locks/models--org--tiny").exists());
    fs::create_dir_all(cache.root().join(".locks/models--org--tiny/killed.gone/snapshots")).expect("made");
    assert_eq!(cache.delete("hf:org/tiny"), Err(Missing::Repository.into()));
    assert!(!cache.root().join(".locks/models--org--tiny").exists(), "what a killed delete left");
}

#[test]
fn a_revision_goes_with_its_refs_and_leaves_what_others_link() {
    let cache = Cache::new();
    cache.add("c1", "m.gguf", "both").add("c2", "m.gguf", "both").add("c1", "old.gguf", "old");
    cache.write("refs/main", b"c2").write("refs/v1", b"c1").write("refs/refs/pr/1", b"c1");
    cache.write("blobs/old.incomplete", b"").write("blobs/old.parallel.incomplete", b"");
    cache.write("blobs/new.incomplete", b"");
    assert_eq!(cache.delete("hf:org/tiny@v2"), Err(Missing::Revision.into()));
    assert_eq!(cache.delete("hf:org/tiny@v1"), Ok(()));
    assert_eq!(cache.names("snapshots"), ["c2"]);
    assert_eq!(cache.names("refs"), ["main"]);
    assert_eq!(cache.names("blobs"), ["both", "new.incomplete"]);
    assert_eq!(cache.delete("hf:org/tiny@c2"), Ok(()));
    assert_eq!(cache.names("blobs"), ["new.incomplete"], "a download goes on");
    assert!(cache.at("snapshots").exists());
}

#[test]
fn a_quantisation_goes_with_all_its_shards_and_nothing_else() {
    let cache = Cache::new();
    for (name, blob) in [
        ("q/m-Q8_0-00001-of-00002.gguf", "b1"),
        ("q/m-Q8_0-00002-of-00002.gguf", "b2"),
        ("m-Q4_0.gguf", "b3"),
        ("mmproj-F16.gguf", "b4"),
    ] {
        cache.add("c1", name, blob);
    }
    cache.write("refs/main", b"c1");
    let missing = Missing::Gguf { quants: vec!["Q4_0".to_owned(), "Q8_0".to_owned()] };
    assert_eq!(cache.delete("hf:org/tiny:Q5_0"), Err(missing.into()));
    assert_eq!(cache.delete("hf:org/tiny:q8_0"), Ok(()));
    assert_eq!(cache.names("blobs"), ["b3", "b4"]);
    assert_eq!(cache.names("snapshots/c1"), ["m-Q4_0.gguf", "mmproj-F16.gguf"]);
    assert_eq!(cache.delete("hf:org/tiny:mmproj-F16.gguf"), Ok(()));
    assert_eq!(cache.delete("hf:org/tiny:m-Q4_0.gguf@c1"), Ok(()), "the last one: nothing is left");
    assert!(!cache.at("").exists());
}

#[test]
fn a_broken_link_can_be_deleted() {
    let cache = Cache::new();
    cache.add("c1", "a.gguf", "a").link("snapshots/c1/b.gguf", "../../blobs/gone").write("refs/main", b"c1");
    assert_eq!(cache.delete("hf:org/tiny:b.gguf"), Ok(()));
    assert_eq!((cache.names("snapshots/c1"), cache.only().partial), (vec!["a.gguf".to_owned()], false));
}

#[test]
fn links_that_name_the_whole_path_or_go_over_another_keep_their_blob() {
    let cache = Cache::new();
    symlink(cache.root(), cache.dir.path().join("alias")).expect("made");
    cache.add("c1", "m.gguf", "abcd").add("c2", "m.gguf", "abcd").link("snapshots/c4/m.gguf", "../c3/m.gguf");
    let alias = cache.dir.path().join("alias/models--org--tiny/blobs/abcd");
    cache.link("snapshots/c3/m.gguf", alias.to_str().expect("a text"));
    for commit in ["c1", "c2"] {
        assert_eq!(cache.delete(&format!("hf:org/tiny@{commit}")), Ok(()));
    }
    assert_eq!(cache.names("blobs"), ["abcd"]);
    assert!(cache.list().iter().all(|model| model.broken.is_empty() && model.size_bytes == 4));
}

#[test]
fn what_is_used_or_being_downloaded_stays() {
    let cache = Cache::new();
    cache.add("c1", "a-Q8_0.gguf", "aa").add("c1", "b-Q4_0.gguf", "bb").write("refs/main", b"c1");
    let used = [cache.at("snapshots/c1/a-Q8_0.gguf")];
    for reference in ["hf:org/tiny", "hf:org/tiny@main", "hf:org/tiny:Q8_0"] {
        assert_eq!(cache.delete_unless(reference, &used), Err(DeleteError::InUse), "{reference}");
    }
    let Ok(ModelRef::Hub(hub)) = "hf:org/tiny".parse() else { panic!("a good reference") };
    let repository = layout::Repository::new(&cache.root(), &hub);
    let lock = repository.try_lock("bb").expect("made").expect("free");
    for reference in ["hf:org/tiny", "hf:org/tiny@main", "hf:org/tiny:Q4_0"] {
        assert_eq!(cache.delete(reference), Err(DeleteError::Busy), "{reference}");
    }
    assert_eq!((cache.names("blobs").len(), names(&cache.only()).len()), (2, 2));
    drop(lock);
    assert_eq!(cache.delete_unless("hf:org/tiny:Q4_0", &used), Ok(()));
    assert_eq!(names(&cache.only()), ["a-Q8_0.gguf"]);
}

#[test]
fn a_blob_that_a_worker_was_given_stays_and_shows_as_used() {
    let cache = Cache::new();
    cache.add("c1", "m-Q8_0.gguf", "aa").add("c2", "m-Q8_0.gguf", "aa").add("c1", "n-Q4_0.gguf", "bb");
    cache.write("refs/main", b"c1");
    symlink(cache.root(), cache.dir.path().join("alias")).expect("made");
    for worker in [
        cache.at("blobs/aa").canonicalize().expect("it is there"),
        cache.dir.path().join("alias/models--org--tiny/blobs/aa"),
    ] {
        let used = [worker];
        assert!(cache.catalog.list(&used).iter().all(|model| model.in_use));
        assert_eq!(cache.delete_unless("hf:org/tiny", &used), Err(DeleteError::InUse));
    }
    let used = [cache.at("blobs/aa")];
    assert_eq!(cache.delete_unless("hf:org/tiny@c2", &used), Ok(()), "the other revision keeps it");
    for reference in ["hf:org/tiny:Q8_0", "hf:org/tiny@c1"] {
        assert_eq!(cache.delete_unless(reference, &used), Err(DeleteError::InUse), "{reference}");
    }
    assert_eq!(cache.delete_unless("hf:org/tiny:Q4_0", &used), Ok(()));
    assert_eq!((cache.names("blobs"), cache.only().in_use), (vec!["aa".to_owned()], false));
}

#[test]
fn a_lock_whose_file_is_gone_is_none() {
    let cache = Cache::new();
    let repository = layout::Repository::named(&cache.root(), "models--org--tiny");
    let _lock = repository.try_lock("aa").expect("made").expect("free");
    fs::remove_file(cache.root().join(".locks/models--org--tiny/aa.lock")).expect("removed");
    assert!(repository.try_lock("aa").expect("made").is_some(), "a new one");
}

/// What a random cache has: links as snapshot, name and blob, some blobs without a link, some gone.
type Links = Vec<(u8, u8, u8)>;

fn random_cache() -> impl Strategy<Value = (Links, Vec<u8>, Vec<(u8, u8)>)> {
    let links = proptest::collection::vec((0..3_u8, 0..6_u8, 0..6_u8), 1..14);
    (links, proptest::collection::vec(0..9_u8, 0..4), proptest::collection::vec((0..3_u8, 0..9_u8), 1..6))
}

const FILES: [&str; 6] = [
    "m-Q8_0-00001-of-00002.gguf",
    "m-Q8_0-00002-of-00002.gguf",
    "deep/er/m-Q4_K_M.gguf",
    "m-Q2_K.gguf",
    "config.json",
    "tokenizer.json",
];

/// Each link by its path, with the blob that it means.
fn links_of(cache: &Cache) -> BTreeSet<(PathBuf, OsString)> {
    let Ok(read) = Repository::read(&cache.root(), &cache.at("")) else { return BTreeSet::new() };
    let mut links = BTreeSet::new();
    for snapshot in &read.snapshots {
        for file in &snapshot.files {
            let blob = file.blob.clone().expect("all are links to blobs");
            links.insert((Path::new(&snapshot.name).join(&file.path), blob));
        }
    }
    links
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_deleted_no_link_breaks_and_no_ref_means_nothing((links, leftovers, deletes) in random_cache()) {
        let cache = Cache::new();
        for (commit, name, blob) in links {
            let (commit, name) = (format!("c{commit}"), FILES[usize::from(name)]);
            if !cache.at(&format!("snapshots/{commit}/{name}")).exists() {
                cache.add(&commit, name, &format!("b{blob}"));
            }
            cache.write(&format!("refs/r/{commit}"), commit.as_bytes());
        }
        for blob in leftovers {
            let ending = ["", ".incomplete", ".incomplete.parts"][usize::from(blob % 3)];
            cache.write(&format!("blobs/b{blob}{ending}"), b"left");
        }
        for (commit, what) in deletes {
            let before = links_of(&cache);
            let reference = match what {
                0 => "hf:org/tiny".to_owned(),
                1 | 2 => format!("hf:org/tiny@r/c{commit}"),
                3 => format!("hf:org/tiny:Q8_0@c{commit}"),
                4 => format!("hf:org/tiny:{}@c{commit}", FILES[0]),
                _ => format!("hf:org/tiny:{}@r/c{commit}", FILES[2 + usize::from(what % 2)]),
            };
            let done = cache.delete(&reference);
            let after = links_of(&cache);
            prop_assert!(after.is_subset(&before));
            prop_assert_eq!(done.is_ok(), before != after || what == 0 && done.is_ok(), "{}: {:?}", reference, done);
            let linked: BTreeSet<_> = after.iter().map(|(_, blob)| blob.clone()).collect();
            let blobs: BTreeSet<OsString> = cache.names("blobs").into_iter().map(Into::into).collect();
            prop_assert!(linked.is_subset(&blobs), "no link is broken");
            for (_, blob) in before.difference(&after).filter(|(_, blob)| !linked.contains(blob)) {
                prop_assert!(!blobs.contains(blob), "what nothing links is gone");
            }
            for commit in cache.names("refs/r") {
                prop_assert!(cache.at(&format!("snapshots/{commit}")).is_dir(), "a ref means something");
            }
            if after.is_empty() && blobs.is_empty() {
                prop_assert!(!cache.at("").exists(), "an empty repository is gone");
            }
            prop_assert!(cache.list().iter().all(|model| model.broken.is_empty()));
        }
    }
}
