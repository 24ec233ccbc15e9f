//! `lith verify`: reads and checks every byte. `--json`: `{"sound":…,"pending_rollback":…,
//! "tables":[…],"keymaps":[…]}`. Each table has `table` and `sound` (its files and its keymap),
//! and `error` if it could not be checked; a table with damaged files has no entry in `keymaps`.
//! While a rollback is pending, `pending_rollback` describes it and no table is listed; otherwise
//! it is null.

use lithdb::inspect::{KeymapReport, RefusedTable, Verification, VerifyReport};
use lithdb::{Db, DbOptions, ErrorKind, TableName};
use serde_json::{Value as Json, json};

use crate::database::{Context, Tables, check_keymap};
use crate::failure::{Failure, listed};
use crate::keys;
use crate::output::{Output, to_json, with_fields};
use crate::progress::Progress;

/// The findings.
pub(crate) struct Verified {
    /// The files of each table.
    pub(crate) files: Verification,
    /// The keymaps of the tables with intact files.
    keymaps: Vec<KeymapReport>,
    /// The tables whose keymaps could not be checked.
    unchecked_keymaps: Vec<RefusedTable>,
}

/// Verifies the files, then the keymaps of tables with intact files. The findings of one table do
/// not depend on the state of another.
pub(crate) fn verify(options: &DbOptions, named: Option<&str>) -> Result<Verified, Failure> {
    let named = named.map(|name| [name.to_owned()]);
    let named = named.as_ref().map(|names| &names[..]);
    let files = Db::verify(options, named, &mut Progress::new("verifying files").follow())?;
    let mut verified = Verified { files, keymaps: Vec::new(), unchecked_keymaps: Vec::new() };
    // While a rollback is pending, no table can be opened.
    if verified.files.pending_rollback.is_none() {
        verified.check_keymaps(options);
    }
    Ok(verified)
}

impl Verified {
    fn check_keymaps(&mut self, options: &DbOptions) {
        let intact = self.files.tables.iter().filter(|report| report.is_sound());
        let names: Vec<TableName> = intact.map(|report| report.table.clone()).collect();
        let db = match Db::open_read_only(options.clone()) {
            Ok(db) => db,
            Err(error) => {
                let refuse = |table| RefusedTable { table, error: error.clone() };
                self.unchecked_keymaps = names.into_iter().map(refuse).collect();
                return;
            }
        };
        for table in names {
            let checked = db.existing_table(table.as_str()).and_then(|table| check_keymap(&table));
            let error = match checked {
                Ok(report) => {
                    self.keymaps.push(report);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Missing => match db.tables() {
                    // A table that was dropped meanwhile is no failure.
                    Ok(names) if !names.contains(&table) => continue,
                    Ok(_) => error,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.unchecked_keymaps.push(RefusedTable { table, error });
        }
    }

    /// Whether the files of a table and its keymap are intact, as far as they were checked.
    fn is_sound(&self, report: &VerifyReport) -> bool {
        let is_same = |keymap: &&KeymapReport| keymap.table == report.table;
        report.is_sound()
            && self.keymaps.iter().filter(is_same).all(KeymapReport::is_sound)
            && !self.unchecked_keymaps.iter().any(|refused| refused.table == report.table)
    }

    /// A description of every problem.
    pub(crate) fn problems(&self) -> Vec<String> {
        let pending = self.files.pending_rollback.iter().map(ToString::to_string);
        let damaged = self.files.tables.iter().filter(|t| !t.is_sound()).map(ToString::to_string);
        let wrong = self.keymaps.iter().filter(|k| !k.is_sound()).map(ToString::to_string);
        let refused =
            self.files.refused.iter().chain(&self.unchecked_keymaps).map(ToString::to_string);
        pending.chain(damaged).chain(wrong).chain(refused).collect()
    }

    /// `Ok` if everything is intact.
    fn verdict(&self) -> Result<(), Failure> {
        let damaged = self.files.tables.iter().filter(|t| !t.is_sound()).map(|t| &t.table);
        let wrong = self.keymaps.iter().filter(|k| !k.is_sound()).map(|k| &k.table);
        let refused = self.files.refused.iter().chain(&self.unchecked_keymaps).map(|r| &r.table);
        let pending = self.files.pending_rollback.is_some();
        Failure::from_messages([
            pending.then(|| "a rollback is pending; see lith rollback --finish".to_owned()),
            listed("damaged", damaged.chain(wrong)).map(|names| names + "; see lith repair"),
            listed("cannot be checked", refused),
        ])
    }

    fn show(&self, out: &mut Output) -> Result<(), Failure> {
        if let Some(pending) = &self.files.pending_rollback {
            out.text(pending)?;
        }
        for table in &self.files.tables {
            out.text(table)?;
            for keymap in self.keymaps.iter().filter(|keymap| keymap.table == table.table) {
                out.text(keymap)?;
            }
            for refused in
                self.unchecked_keymaps.iter().filter(|refused| refused.table == table.table)
            {
                out.text(format_args!(
                    "table {}: keymap not checked: {}",
                    table.table, refused.error
                ))?;
            }
        }
        for RefusedTable { table, error } in &self.files.refused {
            out.text(format_args!("table {table}: not checked: {error}"))?;
        }
        Ok(())
    }

    fn to_json(&self) -> Result<Json, Failure> {
        let mut tables = Vec::new();
        for report in &self.files.tables {
            let sound = ("sound", Json::from(self.is_sound(report)));
            tables.push(with_fields(to_json(report)?, [sound]));
        }
        tables.extend(self.files.refused.iter().map(unchecked));
        let mut keymaps = Vec::new();
        for report in &self.keymaps {
            let sound = ("sound", Json::from(report.is_sound()));
            keymaps.push(with_fields(to_json(report)?, [sound]));
        }
        keymaps.extend(self.unchecked_keymaps.iter().map(unchecked));
        Ok(keys::normalize_keys(json!({
            "sound": self.verdict().is_ok(),
            "pending_rollback": to_json(&self.files.pending_rollback)?,
            "tables": tables,
            "keymaps": keymaps,
        })))
    }
}

fn unchecked(refused: &RefusedTable) -> Json {
    let error = refused.error.to_string();
    json!({ "table": refused.table.as_str(), "sound": false, "error": error })
}

/// Damage is a failure, and so is a table that could not be checked, or a pending rollback.
pub(crate) fn run(args: &Tables, ctx: &mut Context) -> Result<(), Failure> {
    let verified = verify(&ctx.options()?, args.table.as_deref())?;
    verified.show(&mut ctx.out)?;
    ctx.out.document(|| verified.to_json())?;
    verified.verdict()
}

#[cfg(test)]
mod tests {
    use lithdb_env::{Fs, OsFs};

    use super::*;

    #[test]
    fn unopenable_table_does_not_hide_file_findings() {
        let dir = tempfile::tempdir().unwrap();
        let options = DbOptions::new([dir.path().join("db")]);
        let db = Db::open(options.clone()).unwrap();
        for name in ["a", "b", "dropped"] {
            db.table(name, Default::default()).unwrap().put(b"key", b"value").unwrap();
        }
        db.close().unwrap();
        let files = Db::verify(&options, None, &mut |_| {}).unwrap();
        let mut verified = Verified { files, keymaps: Vec::new(), unchecked_keymaps: Vec::new() };
        // Between the two phases, one table is damaged and one is dropped.
        OsFs.rename(&dir.path().join("db/a/segments"), &dir.path().join("kept")).unwrap();
        OsFs.create_new(&dir.path().join("db/a/segments")).unwrap();
        Db::open(options.clone()).unwrap().drop_table("dropped").unwrap();
        verified.check_keymaps(&options);
        let names: Vec<_> = verified.unchecked_keymaps.iter().map(|r| r.table.as_str()).collect();
        assert_eq!((names, verified.keymaps.len()), (vec!["a"], 1));
        assert!(verified.verdict().unwrap_err().to_string().ends_with("cannot be checked: a"));
        let document = verified.to_json().unwrap();
        let sound: Vec<_> =
            document["tables"].as_array().unwrap().iter().map(|t| &t["sound"]).collect();
        assert_eq!(sound, [false, true, true]);
        assert_eq!(document["keymaps"].as_array().unwrap().len(), 2);
    }
}
