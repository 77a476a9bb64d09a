//! What MySQL's errors mean: somebody has to grant something, it passes, or the specification is wrong.

use sqlx::mysql::MySqlDatabaseError;

use crate::external::breaker::Fault;
use crate::external::reach;

/// A table that is named does not exist.
pub(super) const NO_SUCH_TABLE: u16 = 1146;
/// A view reads something that does not exist, or that this user may not read.
pub(super) const VIEW_INVALID: u16 = 1356;
/// A column of that name exists.
pub(super) const DUPLICATE_COLUMN: u16 = 1060;
/// An index of that name exists.
pub(super) const DUPLICATE_INDEX: u16 = 1061;

/// User, host, password, rights.
const DENIED: &[u16] = &[1044, 1045, 1130, 1142, 1143, 1227, 1370, 1698, 1820, 1862, 3118, 3879, 4151];
/// What was declared cannot be: a closed list, as Helm gives up for good on what only a change of the specification is said to cure. All else may pass: too
/// busy, out of space, read-only, a lock that was not given in time, and whatever MySQL comes to say in later versions.
const REFUSED: &[&[u16]] = &[
    // Names that are not there, not unique, too long.
    &[1051, 1052, 1054, 1059, 1060, 1061, 1066, 1102, 1103, 1109, 1110, 1166, 1247, 1248, 1250, 1305, 1347, 1630],
    // Syntax, and what a view cannot hold.
    &[1064, 1065, 1149, 1193, 1210, 1221, 1235, 1295, 1350, 1351, 1352, 1353, 1462, 1582, 1583, 1584],
    // Grouping, subqueries, functions, windows.
    &[
        1055, 1056, 1057, 1111, 1120, 1139, 1140, 1222, 1241, 1242, 1463, 3029, 3065, 3066, 3573, 3574, 3575, 3576, 3577, 3579, 3580, 3581, 3582, 3583, 3584,
        3585, 3586, 3587, 3588, 3589, 3590, 3591, 3592, 3593, 3594,
    ],
    // Types, keys and sizes of columns.
    &[1063, 1067, 1068, 1069, 1070, 1071, 1072, 1073, 1074, 1075, 1089, 1101, 1113, 1117, 1118, 1121, 1138, 1170, 1171, 1425, 1426, 1427, 1439],
    // Character sets and collations.
    &[1115, 1253, 1267, 1270, 1271, 1273, 3995],
    // Values.
    &[1048, 1062, 1136, 1264, 1265, 1292, 1364, 1365, 1366, 1367, 1406, 1411, 1441, 1690, 3140, 3141, 3143, 3819],
];
/// A database or table does not exist. Who may not look gets another of [`DENIED`].
const ABSENT: &[u16] = &[1049, NO_SUCH_TABLE];
/// A statement took longer than its MAX_EXECUTION_TIME.
const OUT_OF_TIME: u16 = 3024;

/// The error of the server, if it is one.
pub(super) fn of_server(error: &sqlx::Error) -> Option<&MySqlDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// What `error` means to the connection.
pub(super) fn fault(error: &sqlx::Error) -> Fault {
    if let Some(error) = of_server(error) {
        return match error.number() {
            // MySQL's text names the client's address, which changes with the operator's pod.
            1045 | 1698 => Fault::denied("wrong user or password"),
            number if DENIED.contains(&number) => Fault::denied(error.message()),
            1205 => Fault::failed("a lock was not given in time; something else works on the table"),
            number => Fault::failed(format!("{} ({number})", error.message())),
        };
    }
    match error {
        sqlx::Error::Io(error) => Fault::unreachable(reach::describe(error)),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Fault::unreachable("the connection was closed"),
        sqlx::Error::Tls(error) => Fault::unreachable(format!("TLS: {error}")),
        _ => Fault::failed(error.to_string()),
    }
}

/// MySQL's words, if it does not take what was declared.
pub(super) fn refusal(error: &sqlx::Error) -> Option<String> {
    let error = of_server(error)?;
    is_refusal(error.number()).then(|| format!("{} (MySQL error {})", error.message(), error.number()))
}

fn is_refusal(number: u16) -> bool {
    REFUSED.iter().any(|kind| kind.contains(&number))
}

/// Whether it says that something does not exist.
pub(super) fn is_absence(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|error| ABSENT.contains(&error.number()))
}

/// Whether a statement was ended since it took too long.
pub(super) fn is_out_of_time(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|error| error.number() == OUT_OF_TIME)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::syntax(1064, true)]
    #[case::no_such_column(1054, true)]
    #[case::too_long(1406, true)]
    #[case::no_right(1142, false)]
    #[case::read_only(1290, false)]
    #[case::no_thread_for_it(1135, false)]
    #[case::a_file_that_cannot_be_written(1004, false)]
    #[case::of_a_later_version(65_535, false)]
    fn only_what_a_change_of_the_specification_cures_is_refused(#[case] number: u16, #[case] refused: bool) {
        assert_eq!(is_refusal(number), refused);
    }

    #[test]
    fn no_error_is_of_two_kinds() {
        assert!(REFUSED.iter().copied().flatten().all(|number| !DENIED.contains(number) && !ABSENT.contains(number)));
        assert!(ABSENT.iter().all(|number| !DENIED.contains(number)));
    }
}
