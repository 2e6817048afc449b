//! Methods of Python's `dict`, `list` and `tuple`.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

use super::invalid;

/// Calls a method of a mapping.
pub fn mapping_method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let pairs =
        || value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect::<Result<Vec<_>, Error>>();
    state.consume_fuel(value.len().unwrap_or(0) as u64)?;
    match name {
        "keys" => {
            let () = from_args(args)?;
            Ok(value.try_iter()?.collect())
        }
        "values" => {
            let () = from_args(args)?;
            Ok(pairs()?.into_iter().map(|(_, value)| value).collect())
        }
        "items" => {
            let () = from_args(args)?;
            Ok(pairs()?.into_iter().map(Value::from).collect())
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = value.get_item(key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Calls a method of a list or tuple.
pub fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    state.consume_fuel(value.len().unwrap_or(0) as u64)?;
    match name {
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            Ok(Value::from(value.try_iter()?.filter(|item| item == wanted).count()))
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let found = value.try_iter()?.position(|item| item == *wanted);
            found.map(Value::from).ok_or_else(|| invalid("index: the list does not hold the value"))
        }
        "copy" if value.kind() == ValueKind::Seq => {
            let () = from_args(args)?;
            Ok(value.clone())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
