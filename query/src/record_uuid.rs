//! The uuid of a record: the same whenever it is read, another for every other record.

use uuid::Uuid;

/// The namespace of records' uuids: that of `record.tapeline.dev`.
const NAMESPACE: Uuid = Uuid::from_u128(0xec2b_30b3_e8c9_5eb6_8f97_7fea_3001_aaf5);

/// Version 5 (SHA-1) of `topic/partition/offset/index`: `index` is the record's place in its message, from 0.
#[must_use]
pub fn record_uuid(topic: &str, partition: i32, offset: i64, index: i32) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{topic}/{partition}/{offset}/{index}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_changes() {
        assert_eq!(record_uuid("trades", 3, 17, 0).to_string(), "8a3646b3-b503-500f-8504-078816268e80");
        assert_eq!(NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"record.tapeline.dev"));
    }
}
