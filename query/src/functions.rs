//! SQL functions that differ from DataFusion's on purpose.
//!
//! * `now()` and `current_date` are the time of the micro-batch, read when a row is computed. DataFusion's are replaced by a literal when the plan is made.
//! * `record_uuid()` is the uuid of the record that a row came from ([`record`]).
//! * `date_bin` reaches every timestamp. DataFusion's gives null for those beyond the range of nanoseconds.
//! * `sum` of integers is a `decimal(38,0)`. DataFusion's wraps around silently.
//! * `to_json` gives any value as its JSON text. DataFusion has none.

mod date_bin;
mod record;
mod to_json;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, GroupsAccumulator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::schema::TIMESTAMP_TYPE;
pub(crate) use date_bin::{DATE_BIN, date_bin, fixed_micros};
pub(crate) use record::{RECORD_UUID, order_key, record_uuid, uuid_of};
pub(crate) use to_json::to_json;

/// The time of the current micro-batch in microseconds since 1970, shared by the plan and whoever cuts.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchClock(Arc<AtomicI64>);

impl BatchClock {
    pub(crate) fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The names under which the plan may call a volatile function all the same: they give one value for the whole micro-batch.
pub(crate) const BATCH_TIME_FUNCTIONS: [&str; 2] = ["now", "current_date"];

/// `now()` and `current_date` over `clock`.
pub(crate) fn batch_time(clock: &BatchClock) -> [ScalarUDF; 2] {
    let signature = Signature::nullary(Volatility::Volatile); // not folded into a literal
    let function = |name, aliases: &[&str], kind| {
        ScalarUDF::from(BatchTime {
            name,
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
            kind,
            clock: clock.clone(),
            signature: signature.clone(),
        })
    };
    [function("now", &["current_timestamp"], Kind::Timestamp), function("current_date", &["today"], Kind::Date)]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Timestamp,
    Date,
}

#[derive(Debug, Clone)]
struct BatchTime {
    name: &'static str,
    aliases: Vec<String>,
    kind: Kind,
    clock: BatchClock,
    signature: Signature,
}

impl PartialEq for BatchTime {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && Arc::ptr_eq(&self.clock.0, &other.clock.0)
    }
}

impl Eq for BatchTime {}

impl std::hash::Hash for BatchTime {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
    }
}

impl ScalarUDFImpl for BatchTime {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Timestamp => TIMESTAMP_TYPE,
            Kind::Date => DataType::Date32,
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        const DAY: i64 = 86_400_000_000;
        let micros = self.clock.get();
        Ok(ColumnarValue::Scalar(match self.kind {
            Kind::Timestamp => ScalarValue::TimestampMicrosecond(Some(micros), None),
            Kind::Date => ScalarValue::Date32(i32::try_from(micros.div_euclid(DAY)).ok()),
        }))
    }
}

/// `sum` that adds integers as `decimal(38,0)`.
pub(crate) fn exact_sum() -> AggregateUDF {
    AggregateUDF::from(ExactSum { inner: Sum::new(), signature: Signature::user_defined(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactSum {
    inner: Sum,
    signature: Signature,
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [integer] if integer.is_integer() => Ok(vec![DataType::Decimal128(38, 0)]),
            [DataType::Float16 | DataType::Float32 | DataType::Float64] => Ok(vec![DataType::Float64]),
            [decimal @ DataType::Decimal128(..)] => Ok(vec![decimal.clone()]),
            [other] => plan_err!("sum takes numbers, not {other}"),
            _ => plan_err!("sum takes one argument"),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<arrow::datatypes::FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }
}
