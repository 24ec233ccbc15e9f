use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Gauges, and where their values are.
fn gauges() -> (Gauges, [Arc<AtomicU64>; GAUGES.len()]) {
    let values = GAUGES.map(|_| Arc::new(AtomicU64::new(0)));
    (Gauges::new(values.clone().map(Gauge::from_arc)), values)
}

fn shown(values: &[Arc<AtomicU64>; GAUGES.len()]) -> [f64; GAUGES.len()] {
    values.each_ref().map(|value| f64::from_bits(value.load(Ordering::SeqCst)))
}

const FIRST: Shown = Shown {
    pending_ops: 0,
    version: 7,
    durable_version: 7,
    snapshot_version: 4,
    oldest: 3,
    l0_runs: 1,
};

#[test]
fn what_is_told_late_does_not_replace_what_is_newer() {
    let (gauges, values) = gauges();
    gauges.begin(FIRST);
    assert_eq!(shown(&values), [0.0, 7.0, 7.0, 4.0, 5.0, 1.0]);
    gauges.show(|shown| shown.set_durable(9));
    assert_eq!(shown(&values), [0.0, 9.0, 9.0, 4.0, 7.0, 1.0], "what is durable is committed");
    // A thread that had read it before.
    gauges.show(|shown| shown.set_durable(8));
    assert_eq!(shown(&values), [0.0, 9.0, 9.0, 4.0, 7.0, 1.0]);
    // Versions were collected. The thread that tells so does not know of the newest.
    gauges.show(|shown| shown.oldest = 6);
    assert_eq!(shown(&values), [0.0, 9.0, 9.0, 4.0, 4.0, 1.0]);
}

#[test]
fn gauges_are_set_only_while_the_store_is_open_and_only_to_other_values() {
    let (gauges, values) = gauges();
    let overwrite = || values.iter().for_each(|value| value.store(0, Ordering::SeqCst));
    gauges.show(|shown| shown.set_durable(9));
    assert_eq!(shown(&values), [0.0; 6], "not open");
    gauges.begin(FIRST);
    overwrite();
    gauges.show(|shown| shown.set_durable(7));
    assert_eq!(shown(&values), [0.0; 6], "nothing new");
    gauges.end();
    gauges.show(|shown| shown.set_durable(9));
    assert_eq!(shown(&values), [0.0; 6], "closed");
}
