//! Imports beside what is there already.

use lithdb_state::ErrorKind;

use crate::fixture::Fixture;
use crate::support::model::{Change, rows_of};
use crate::support::{difference, small};

/// sei-chain #3090: an import only put rows, and those of the store before survived it. #3928: what
/// an import that was torn had left was opened.
#[test]
fn an_import_into_a_store_with_data_is_refused_and_an_interrupted_one_never_opens() {
    let options = small().memtable_bytes(100);
    for (mut origin, mut target) in Fixture::both(&options).into_iter().zip(Fixture::both(&options))
    {
        origin.commit_to(5);
        let export = origin.export();
        target.commit(&[Change::put("bank", "stale", "1"), Change::put("stale", "k", "")]);
        for is_open in [true, false] {
            let before = target.tree();
            let error = target.import(&export).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().contains("there is a state store"), "{error}");
            if is_open {
                // Its background may have flushed meanwhile.
                target.check("after a refused import");
                target.close();
            } else {
                assert_eq!(difference(&before, &target.tree()), None);
            }
        }
        // An empty state is one, too.
        let mut empty = origin.absent();
        empty.open();
        empty.close();
        assert_eq!(empty.import(&export).unwrap_err().kind(), ErrorKind::InvalidArgument);
        // Interrupted at any byte, it is opened by nobody, and the next import does not see it.
        let mut other = origin.absent();
        for len in (0..export.len()).step_by(97).chain([export.len() - 1]) {
            other.import(&export[..len]).unwrap_err();
            if len < 97 {
                continue;
            }
            let before = other.tree();
            let error = other.try_open().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Missing, "{error}");
            assert!(error.to_string().contains("import again, or reset"), "{error}");
            let error = other.view_only(None).unwrap_err();
            assert!(error.to_string().contains("import again, or reset"), "{error}");
            let mut after = other.tree();
            after.extend(before.get_key_value(&other.dir().join("state.lock")).map(cloned));
            assert_eq!(difference(&before, &after), None, "refusing changes nothing");
        }
        other.import(&export).unwrap();
        other.open();
        other.check("imported");
        assert_eq!(rows_of(&other.db().latest()), rows_of(&origin.db().latest()));
    }
}

fn cloned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}
