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
/// Too busy, shutting down, out of space, read-only, a lock that was not given in time: it may work later as it is.
const PASSING: &[u16] =
    &[1021, 1030, 1037, 1038, 1040, 1041, 1053, 1077, 1078, 1079, 1114, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1290, 1317, 1792, 1836, 3024];

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

/// MySQL's words, if it does not take what was declared: the statement is ours, so neither rights nor luck would help.
pub(super) fn refusal(error: &sqlx::Error) -> Option<String> {
    let error = of_server(error)?;
    let passes = DENIED.contains(&error.number()) || PASSING.contains(&error.number());
    (!passes).then(|| format!("{} (MySQL error {})", error.message(), error.number()))
}
