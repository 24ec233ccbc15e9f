//! Value files with swapped names.

use lithdb_repair::{Action, plan_repair};

use super::fixture::{check_opened, damage, nothing, table};

#[test]
fn swapped_value_files_are_refused_and_keep_their_values() {
    let (harness, model) = table();
    let names = ["3-0.values", "3-1.values"].map(|name| harness.file(name));
    let bytes = names.clone().map(|path| harness.fs.read_raw(path));
    let swapped = harness.fork();
    swapped.fs.write_raw(&names[0], bytes[1].clone());
    swapped.fs.write_raw(&names[1], bytes[0].clone());
    let report = swapped.verify();
    assert_eq!(report.lost_keys(), Some(0), "{report}");
    let found: Vec<_> = damage(&report).iter().map(|finding| finding.what.clone()).collect();
    assert!(found[0].contains("value file 0 of the segment: rename it back to 3-0"), "{report}");
    assert!(found[1].contains("value file 1 of the segment: rename it back to 3-1"), "{report}");
    let error = plan_repair(&swapped.setup, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("rename it back to 3-0.values"), "{error}");
    swapped.fs.write_raw(&names[0], bytes[0].clone());
    swapped.fs.write_raw(&names[1], bytes[1].clone());
    check_opened("renamed back", &swapped, &model, &nothing());
    // A copy over another file is no swap: the overwritten values are lost.
    harness.fs.write_raw(&names[0], bytes[1].clone());
    let plan = harness.plan();
    assert_eq!(plan.segments[0].action, Action::Salvage, "{plan}");
}
