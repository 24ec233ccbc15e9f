//! The contract of an engine, sentence by sentence, against every implementation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod bed;
mod copies;
mod durability;
mod opening;
mod random;
mod reading;
mod threads;

/// Makes a test of each function for each engine.
macro_rules! for_each_engine {
    ($($module:ident::{$($test:ident),* $(,)?}),* $(,)?) => {
        mod model {
            $(mod $module { $(
                #[test]
                fn $test() { crate::$module::$test(&crate::bed::model()); }
            )* })*
        }
        mod lsm {
            $(mod $module { $(
                #[test]
                fn $test() { crate::$module::$test(&crate::bed::lsm()); }
            )* })*
        }
    };
}

for_each_engine! {
    reading::{
        every_batch_makes_a_moment_and_a_pin_reads_its_own,
        apply_is_all_or_nothing,
        keys_and_values_have_limits,
        empty_value_is_a_value,
        range_has_all_kinds_of_bounds_and_both_ends,
        range_without_keys_is_empty,
        pin_survives_overwriting_flushing_and_compacting,
        rows_outlive_their_engine_and_their_pin,
        pin_of_another_engine_is_refused,
        memtable_bytes_are_those_since_the_last_seal,
        stats_count_files_and_memory,
    },
    durability::{
        only_what_was_flushed_survives,
        flush_makes_earlier_memtables_durable_and_no_later_one,
        flush_again_does_nothing,
        seal_without_rows_makes_no_moment_and_can_be_flushed,
        last_rows_of_a_seal_are_a_moment_of_their_own,
        deleted_rows_stay_deleted_after_compaction_and_reopening,
        memtable_of_another_engine_is_refused,
        compaction_ends_and_keeps_every_row,
        compaction_removes_files_when_the_last_pin_drops,
    },
    copies::{
        checkpoint_of_a_sealed_memtable_opens_as_exactly_that_moment,
        checkpoint_links_what_is_never_written_and_lists_every_file,
        checkpoint_never_changes,
        checkpoint_of_an_empty_engine_opens,
        checkpoint_that_is_not_the_newest_flushed_moment_is_refused,
        checkpoint_into_a_directory_with_files_is_refused,
        clone_has_the_same_rows_and_leaves_its_original_alone,
        clone_into_an_existing_directory_is_refused,
        clone_of_a_changed_file_is_refused,
        clone_of_names_that_lead_elsewhere_is_refused,
        another_file_system_is_refused_and_nothing_is_copied,
        copy_beside_a_writer_is_its_newest_flushed_moment,
    },
    opening::{
        create_refuses_an_existing_directory,
        open_refuses_a_missing_directory_and_makes_none,
        read_in_place_writes_nothing_and_refuses_to_maintain,
        read_in_place_survives_the_removal_of_every_file,
        leftovers_are_removed_for_writing_only,
        check_finds_missing_short_and_changed_files,
        open_twice_is_open_once,
    },
    threads::{
        readers_find_whole_batches_beside_changes_and_maintenance,
        collection_beside_views_never_panics,
    },
    random::{
        random_histories_agree_with_a_map_for_every_moment,
    },
}
