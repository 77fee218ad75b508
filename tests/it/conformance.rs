//! What the engine relies on in a broker, as checks that the simulated and the real one both have to pass.
//!
//! A check is a function of a [`Subject`]: the broker, names that nobody else uses, and a way to let time pass. [`conformance_tests!`]
//! makes each of them a test of its own, so that a test's name says which claim of which broker does not hold.

mod alone;
mod groups;
mod reading;
mod subject;
mod transactions;

pub(crate) use alone::*;
pub(crate) use groups::*;
pub(crate) use reading::*;
pub(crate) use subject::{Operator, Subject};
pub(crate) use transactions::*;

/// Makes every check a test; `$subject` is called for the subject of each, with the check's name.
macro_rules! conformance_tests {
    ($subject:path) => {
        $crate::conformance::producer_tests!($subject);
        $crate::conformance::member_tests!($subject);
        $crate::conformance::conformance_tests! { $subject:
            a_producer_of_another_id_is_left_alone,
            a_key_lands_where_java_puts_it,
            a_writer_is_told_where_its_records_went,
            the_broker_stamps_records_where_the_topic_says_so,
            a_read_ends_at_the_end_it_found,
            a_topic_made_anew_has_another_id,
            a_topic_is_created_once,
            a_deleted_topic_is_gone,
            an_unknown_topic_is_described_as_none,
        }
    };
    ($subject:path: $($check:ident),+ $(,)?) => {
        $(
            #[test]
            fn $check() {
                $crate::conformance::$check(&$subject(stringify!($check)));
            }
        )+
    };
}

/// Makes the checks tests that depend on who produces.
macro_rules! producer_tests {
    ($subject:path) => {
        $crate::conformance::conformance_tests! { $subject:
            a_committed_transaction_is_seen,
            an_aborted_transaction_is_never_seen,
            an_open_transaction_holds_back_what_is_behind_it,
            a_transaction_spans_partitions_and_topics,
            offsets_and_metadata_are_committed_with_the_transaction,
            offsets_of_an_aborted_transaction_are_forgotten,
            a_transaction_of_offsets_alone_commits,
            a_transaction_of_nothing_commits,
            a_transaction_whose_records_may_not_have_been_sent_is_aborted,
            metadata_over_the_limit_is_abortable,
            a_fenced_producer_can_do_nothing_more,
            a_new_producer_aborts_what_its_predecessor_left_open,
            a_stale_generation_is_abortable_and_the_producer_stays_good,
            a_member_that_has_left_cannot_commit,
            a_record_too_large_for_the_client_leaves_the_transaction_good,
            a_record_too_large_for_its_topic_leaves_the_transaction_good,
            a_transaction_over_its_time_is_aborted_and_its_producer_is_dead,
            what_a_plain_producer_has_drained_is_seen,
            a_record_too_large_leaves_a_plain_producer_good,
        }
    };
}

/// Makes the checks tests that depend on who reads for a member.
macro_rules! member_tests {
    ($subject:path) => {
        $crate::conformance::conformance_tests! { $subject:
            committed_offsets_wait_for_an_open_transaction,
            a_member_commits_offsets_and_metadata_by_itself,
            metadata_over_the_limit_is_refused_to_a_member_too,
            a_member_commits_what_it_is_about_to_give_back,
            a_member_whose_place_was_taken_commits_nothing,
            a_member_that_has_left_commits_nothing_by_itself,
            every_byte_of_a_record_comes_back,
            position_and_end_agree_behind_control_records,
            position_and_end_agree_behind_aborted_records,
            a_poll_keeps_to_its_limit,
            a_queue_wakes_its_reader,
            a_second_member_takes_over_without_stopping_the_first,
            a_new_owner_sees_what_the_old_one_committed,
            a_member_that_leaves_gives_its_partitions_back,
            a_start_outside_the_log_is_told,
            a_log_that_lost_its_beginning_is_told_and_not_skipped,
            partitions_added_to_a_topic_are_assigned_and_what_is_read_goes_on,
        }
    };
}

pub(crate) use {conformance_tests, member_tests, producer_tests};
