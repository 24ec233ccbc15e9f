//! Stopped databases that are rolled back while the disk crashes or fails.

use std::path::Path;

use lithdb::{NoMatch, Result, RollbackPlan};
use lithdb_env::{Fs, sync_parent};
use lithdb_sim::CrashImage;

use super::past::{self, Contents, Keep, height, put_batch, put_group, put_groups};
use super::{World, small};

/// A database and what it is rolled back to.
pub struct Scene {
    pub name: &'static str,
    /// Stopped, everything durable. Each run has a copy.
    pub world: World,
    pub keep: Keep<'static>,
    pub no_match: NoMatch,
    pub old: Contents,
    pub new: Contents,
    /// Hard links to files of it, and what must stay in them.
    pub linked: Vec<(String, Vec<u8>)>,
}

impl Scene {
    fn new(name: &'static str, world: World, keep: Keep<'static>, no_match: NoMatch) -> Self {
        let world = past::fork(&world);
        let old = past::contents_of(&world);
        let new = past::cut(&old, keep, no_match);
        assert_ne!(old, new, "{name}: nothing to do");
        let links = world.files("/snapshot/").into_iter();
        let linked = links.map(|path| (path.clone(), world.fs.read_raw(&path))).collect();
        Self { name, world, keep, no_match, old, new, linked }
    }

    pub fn copy(&self) -> World {
        past::fork(&self.world)
    }

    pub fn plan(&self, world: &World) -> Result<RollbackPlan> {
        past::plan(world, self.keep, self.no_match)
    }

    /// Plans and executes.
    pub fn execute(&self, world: &World) -> Result<()> {
        self.plan(world)?.execute().map(|_| ())
    }

    pub fn check_links(&self, world: &World, context: &str) {
        for (path, bytes) in &self.linked {
            assert!(world.fs.read_raw(path) == *bytes, "{context}: {path} has changed");
        }
    }

    /// All tables are at the old state or all at the new one. Opens the database, and says which.
    pub fn check(&self, world: &World, must_be_new: bool, context: &str) -> &Contents {
        let db = world.try_open().unwrap_or_else(|e| panic!("{context}: open: {e}"));
        let found = past::contents(&db, context);
        let is_new = found == self.new;
        assert!(is_new || found == self.old, "{context}: neither the old state nor the new one");
        assert!(is_new || !must_be_new, "{context}: it was done, and is undone");
        let expected = if is_new { &self.new } else { &self.old };
        past::check_gone(&db, &self.old, expected, context);
        db.close().unwrap_or_else(|e| panic!("{context}: close: {e}"));
        self.check_links(world, context);
        expected
    }

    /// And the database works.
    pub fn check_all(&self, world: &World, must_be_new: bool, context: &str) -> &Contents {
        let mut identities = past::Identities::of(world);
        let expected = self.check(world, must_be_new, context);
        identities.agree_with(past::Identities::of(world), context);
        let db = world.open();
        assert!(past::contents(&db, context) == *expected, "{context}: opened again");
        db.close().unwrap();
        drop(db);
        past::check_files(world, context);
        past::goes_on(world, &self.old, expected, context);
        self.check_links(world, context);
        expected
    }
}

/// Groups up to this one are kept.
const LAST: u64 = 6;

fn through_last(_: &str, key: &[u8], is_primary: bool) -> bool {
    is_primary && height(key) <= LAST
}

fn database(make: impl FnOnce(&lithdb::Db)) -> World {
    let world = World::new();
    let db = world.open();
    make(&db);
    db.close().unwrap();
    drop(db);
    world
}

/// A cut in the middle of a sealed segment, and of a batch.
pub fn sealed() -> Scene {
    let world = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
        table.flush().unwrap();
        put_groups(&table, 8..13);
    });
    Scene::new("sealed", world, &through_last, NoMatch::Refuse)
}

/// A cut in the unsealed segment of a database that crashed; what was not flushed is cut off, too, or stays.
pub fn tail() -> Scene {
    let world = World::new();
    let db = world.open();
    let table = db.table("t", small().segment_keys(100)).unwrap();
    put_groups(&table, 0..5);
    table.flush().unwrap();
    put_batch(&table, 5..9);
    put_group(&table, 9);
    // Everything is written, and the key file not synced.
    world.fs.crash_after(5);
    table.flush().unwrap_err();
    let crashed = world.after_crash(&CrashImage::Everything);
    drop((table, db));
    let keys = "/r0/t/segments/1.keys";
    let len = crashed.fs.read_raw(keys).len() as u64;
    crashed.fs.truncate_raw(keys, len - 3);
    Scene::new("tail", crashed, &through_last, NoMatch::Refuse)
}

/// A cut at the end of a sealed segment.
pub fn end_of_segment() -> Scene {
    let world = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, [0, 1, 3]);
        table.seal().unwrap();
        put_groups(&table, [5, 6]);
        table.seal().unwrap();
        put_groups(&table, 7..12);
    });
    Scene::new("end of a segment", world, &through_last, NoMatch::Refuse)
}

/// A table of which nothing stays.
pub fn clear() -> Scene {
    let world = database(|db| {
        put_groups(&db.table("t", small()).unwrap(), 20..29);
    });
    Scene::new("clear", world, &through_last, NoMatch::Clear)
}

/// Four tables: cut in a sealed segment, in the unsealed one, emptied, left alone.
pub fn everything() -> Scene {
    let world = database(|db| {
        let sealed = db.table("a-sealed", small()).unwrap();
        put_groups(&sealed, 3..12);
        let tail = db.table("b-tail", small().segment_keys(50)).unwrap();
        put_groups(&tail, [1, 2]);
        put_batch(&tail, 5..9);
        put_groups(&db.table("c-clear", small()).unwrap(), [9, 11, 13]);
        put_groups(&db.table("d-stays", small()).unwrap(), [0, 2]);
        db.table("e-empty", small()).unwrap();
    });
    Scene::new("everything", world, &through_last, NoMatch::Clear)
}

/// Every file of a table has a second link: a snapshot.
pub fn linked() -> Scene {
    let world = database(|db| {
        let table = db.table("t", small()).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
        put_groups(&table, 8..11);
    });
    link_all(&world, "/t/");
    Scene::new("linked", world, &through_last, NoMatch::Refuse)
}

/// The unsealed segment, cut, with a second link to every file.
pub fn linked_tail() -> Scene {
    let world = database(|db| {
        let table = db.table("t", small().segment_keys(100)).unwrap();
        put_groups(&table, 0..4);
        put_batch(&table, 4..8);
    });
    link_all(&world, "/t/");
    Scene::new("linked tail", world, &through_last, NoMatch::Refuse)
}

/// Links every segment file whose path contains `part` into `/snapshot`.
pub fn link_all(world: &World, part: &str) {
    world.fs.make_dirs("/snapshot");
    for path in world.files(part) {
        if path.contains("/segments/") {
            let link = format!("/snapshot/{}", path.replace('/', "_"));
            world.fs.hard_link(Path::new(&path), Path::new(&link)).unwrap();
            sync_parent(&world.fs, Path::new(&link)).unwrap();
        }
    }
}
