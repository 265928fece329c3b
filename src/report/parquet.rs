//! Results as Parquet files: the columns of `results.csv` and `images.csv`, with types.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::files::{Values, values_of};
use super::sheet::Row;
use crate::{Error, Result, safefile};

/// Rows of a group: a reader takes one at a time.
const GROUP: usize = 65_536;

/// Writes rows as `path`; what a row lacks of a column of numbers is null.
pub(super) fn write(path: &Path, columns: &[String], rows: &[Row]) -> Result<()> {
    let failed = |e: ParquetError| Error::input(format!("{}: {e}", path.display()));
    let bytes = bytes(columns, rows).map_err(failed)?;
    safefile::write(path, bytes)
}

fn bytes(columns: &[String], rows: &[Row]) -> parquet::errors::Result<Vec<u8>> {
    let fields = columns.iter().map(|name| field(name)).collect::<parquet::errors::Result<_>>()?;
    let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?);
    let mut out = vec![];
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(&mut out, schema, properties)?;
    for rows in rows.chunks(GROUP) {
        let mut group = writer.next_row_group()?;
        for name in columns {
            let Some(mut column) = group.next_column()? else { break };
            let texts: Vec<&str> =
                rows.iter().map(|row| row.get(name).map_or("", String::as_str)).collect();
            write_column(&mut column, values_of(name), &texts)?;
            column.close()?;
        }
        group.close()?;
    }
    writer.close()?;
    Ok(out)
}

fn field(name: &str) -> parquet::errors::Result<TypePtr> {
    let (physical, logical) = match values_of(name) {
        Values::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Values::Flag => (Physical::BOOLEAN, None),
        Values::Count => (Physical::INT64, Some(LogicalType::integer(64, false))),
        Values::Number => (Physical::DOUBLE, None),
    };
    let field = Type::primitive_type_builder(name, physical).with_logical_type(logical);
    Ok(Arc::new(field.with_repetition(Repetition::OPTIONAL).build()?))
}

fn write_column(
    column: &mut SerializedColumnWriter,
    kind: Values,
    texts: &[&str],
) -> parquet::errors::Result<()> {
    match kind {
        Values::Text => {
            let values: Vec<ByteArray> = texts.iter().map(|text| (*text).into()).collect();
            let levels = vec![1; texts.len()];
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
        }
        Values::Flag => {
            let (values, levels) = parsed::<bool>(texts);
            column.typed::<BoolType>().write_batch(&values, Some(&levels), None)?;
        }
        Values::Count => {
            let (values, levels) = parsed::<u64>(texts);
            // the same bits: the logical type says that there is no sign
            let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
            column.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
        }
        Values::Number => {
            let (values, levels) = parsed::<f64>(texts);
            column.typed::<DoubleType>().write_batch(&values, Some(&levels), None)?;
        }
    }
    Ok(())
}

/// The values that are there, and of each row whether it has one.
fn parsed<T: FromStr>(texts: &[&str]) -> (Vec<T>, Vec<i16>) {
    let all: Vec<Option<T>> = texts.iter().map(|text| text.parse().ok()).collect();
    let levels = all.iter().map(|value| i16::from(value.is_some())).collect();
    (all.into_iter().flatten().collect(), levels)
}
