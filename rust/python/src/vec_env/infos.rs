//! The infos of a step: a list of dicts that are nearly always the same, made when they are read.

use mlx_baselines3_core::vec_env::VectorEnv;
use mlx_baselines3_macros::guarded;
use pyo3::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyIterator, PyList, PySlice, PyTuple, PyType};

use super::news::{News, truncation_of};

/// What of the list there is.
enum Items {
    Unread,
    Some(Vec<Option<Py<PyAny>>>),
    All(Py<PyList>),
}

/// The infos of each environment after a step: a list of dicts, but each dict is made when it is
/// first read, and all of them when the list is used as a whole.
///
/// 1024 dicts take three times as long to make as 1024 `CartPole`s to step.
///
/// It is a `list` to `isinstance` and in all it does, yet no subclass: C code that reads the memory
/// of a list would find none there, so the type has to be another one.
#[pyclass(module = "mlx_baselines3._native")]
pub(crate) struct Infos {
    len: usize,
    news: Option<Box<News>>,
    items: Items,
}

impl Infos {
    /// Those of the last step. `elapsed` is the time since the start, in seconds.
    pub(crate) fn of(envs: &dyn VectorEnv, elapsed: impl FnOnce() -> f64) -> Self {
        Self {
            len: envs.num_envs(),
            news: News::of(envs, elapsed),
            items: Items::Unread,
        }
    }

    fn make<'py>(&self, py: Python<'py>, at: usize) -> PyResult<Bound<'py, PyDict>> {
        if let Some(news) = &self.news
            && let Some(info) = news.info(py, at)?
        {
            return Ok(info);
        }
        // Copying an entry is faster than entering it.
        static NO_NEWS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
        let no_news = NO_NEWS.get_or_try_init(py, || {
            let info = PyDict::new(py);
            info.set_item("TimeLimit.truncated", false)?;
            Ok::<_, PyErr>(info.unbind())
        });
        no_news?.bind(py).copy()
    }

    /// The place of item `at`, counted from the end if negative, unless the list was made already.
    fn place(&mut self, at: isize) -> Option<(usize, &mut Option<Py<PyAny>>)> {
        if let Items::Unread = self.items {
            self.items = Items::Some((0..self.len).map(|_| None).collect());
        }
        let Items::Some(items) = &mut self.items else {
            return None;
        };
        let end = if at < 0 { items.len() } else { 0 };
        let at = end.checked_add_signed(at)?;
        Some((at, items.get_mut(at)?))
    }

    /// Item `at`; `None` for the list to look up.
    fn item<'py>(&mut self, py: Python<'py>, at: isize) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some((at, item)) = self.place(at) else {
            return Ok(None);
        };
        if let Some(item) = item {
            return Ok(Some(item.bind(py).clone()));
        }
        let info = self.make(py, at)?.into_any();
        if let Some((_, item)) = self.place(at.cast_signed()) {
            *item = Some(info.clone().unbind());
        }
        Ok(Some(info))
    }

    /// All items, in one list from here on.
    fn whole<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let (py, mut this) = (slf.py(), slf.try_borrow_mut()?);
        let list = match &this.items {
            Items::All(list) => return Ok(list.bind(py).clone()),
            Items::Some(items) => {
                let known = |item: &Option<Py<_>>| item.as_ref().map(|item| item.bind(py).clone());
                let items = items.iter().enumerate().map(|(at, item)| {
                    known(item).map_or_else(|| Ok(this.make(py, at)?.into_any()), Ok)
                });
                PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)?
            }
            Items::Unread => {
                let items = (0..this.len).map(|at| this.make(py, at));
                PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)?
            }
        };
        this.items = Items::All(list.clone().unbind());
        Ok(list)
    }

    /// 1 for each episode that the time limit ended, 0 for the others. `None` if an info has
    /// no plain bool there.
    pub(crate) fn truncations(&self, py: Python<'_>) -> Option<Vec<f32>> {
        if let Items::All(list) = &self.items {
            return list
                .bind(py)
                .iter()
                .map(|info| truncation_of(&info))
                .collect();
        }
        let mut truncations = vec![0.0; self.len];
        if let Some(news) = &self.news {
            news.mark_truncations(&mut truncations);
        }
        if let Items::Some(items) = &self.items {
            for (truncated, info) in truncations.iter_mut().zip(items) {
                if let Some(info) = info {
                    *truncated = truncation_of(info.bind(py))?;
                }
            }
        }
        Some(truncations)
    }
}

/// `object`, or the list if it is such infos itself.
fn plain<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match object.cast_exact::<Infos>() {
        Ok(infos) => Ok(Infos::whole(infos)?.into_any()),
        Err(_) => Ok(object.clone()),
    }
}

/// The index that `key` is, if it is one.
fn index_of(key: &Bound<'_, PyAny>) -> Option<isize> {
    if key.is_instance_of::<PySlice>() {
        return None;
    }
    key.extract().ok()
}

type Reduced<'py> = (
    Bound<'py, PyType>,
    Bound<'py, PyTuple>,
    Option<()>,
    Bound<'py, PyIterator>,
);

#[guarded]
#[pymethods]
impl Infos {
    /// The items of an iterable: whoever makes another one of some list's type can.
    #[new]
    fn new(items: &Bound<'_, PyAny>) -> PyResult<Self> {
        let list = items.py().get_type::<PyList>().call1((items,))?;
        Ok(Self {
            len: 0,
            news: None,
            items: Items::All(list.cast_into()?.unbind()),
        })
    }

    #[getter(__class__)]
    fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(py.get_type::<PyList>())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(match &self.items {
            Items::All(list) => list.bind(py).len(),
            _ => self.len,
        })
    }

    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Some(at) = index_of(key)
            && let Some(item) = slf.try_borrow_mut()?.item(slf.py(), at)?
        {
            return Ok(item);
        }
        Self::whole(slf)?.as_any().get_item(key)
    }

    fn __setitem__<'py>(
        slf: &Bound<'py, Self>,
        key: &Bound<'py, PyAny>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        // What was there goes after the loan: it may look at these infos as it does.
        let put = match index_of(key) {
            None => None,
            Some(at) => {
                let mut this = slf.try_borrow_mut()?;
                let place = this.place(at);
                place.map(|(_, item)| item.replace(value.clone().unbind()))
            }
        };
        if put.is_some() {
            return Ok(());
        }
        Self::whole(slf)?.as_any().set_item(key, plain(value)?)
    }

    fn __delitem__(slf: &Bound<'_, Self>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::whole(slf)?.as_any().del_item(key)
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyIterator>> {
        Self::whole(slf)?.as_any().try_iter()
    }

    fn __reversed__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.call_method0(intern!(slf.py(), "__reversed__"))
    }

    fn __contains__(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::whole(slf)?.contains(value)
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(Self::whole(slf)?.repr()?.into_any())
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.rich_compare(plain(other)?, op)
    }

    fn __add__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.as_any().add(plain(other)?)
    }

    fn __radd__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        other.add(Self::whole(slf)?)
    }

    fn __iadd__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::extend(slf, other)
    }

    fn __mul__<'py>(
        slf: &Bound<'py, Self>,
        times: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.as_any().mul(times)
    }

    fn __rmul__<'py>(
        slf: &Bound<'py, Self>,
        times: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.as_any().mul(times)
    }

    fn __imul__(slf: &Bound<'_, Self>, times: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method1(intern!(slf.py(), "__imul__"), (times,))?;
        Ok(())
    }

    /// Copies and pickles are plain lists.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let (py, items) = (slf.py(), Self::__iter__(slf)?);
        Ok((py.get_type::<PyList>(), PyTuple::empty(py), None, items))
    }

    /// A plain list of the same dicts.
    fn copy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.call_method0(intern!(slf.py(), "copy"))
    }

    /// As `list.append`.
    #[pyo3(signature = (object, /))]
    fn append(slf: &Bound<'_, Self>, object: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::whole(slf)?.append(object)
    }

    /// As `list.extend`.
    #[pyo3(signature = (iterable, /))]
    fn extend(slf: &Bound<'_, Self>, iterable: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method1(intern!(slf.py(), "extend"), (plain(iterable)?,))?;
        Ok(())
    }

    /// As `list.insert`.
    #[pyo3(signature = (index, object, /))]
    fn insert(
        slf: &Bound<'_, Self>,
        index: &Bound<'_, PyAny>,
        object: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method1(intern!(slf.py(), "insert"), (index, object))?;
        Ok(())
    }

    /// As `list.pop`.
    #[pyo3(signature = (*index))]
    fn pop<'py>(
        slf: &Bound<'py, Self>,
        index: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.call_method1(intern!(slf.py(), "pop"), index.clone())
    }

    /// As `list.remove`.
    #[pyo3(signature = (value, /))]
    fn remove(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method1(intern!(slf.py(), "remove"), (value,))?;
        Ok(())
    }

    /// As `list.clear`.
    fn clear(slf: &Bound<'_, Self>) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method0(intern!(slf.py(), "clear"))?;
        Ok(())
    }

    /// As `list.reverse`.
    fn reverse(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::whole(slf)?.reverse()
    }

    /// As `list.sort`.
    #[pyo3(signature = (**how))]
    fn sort(slf: &Bound<'_, Self>, how: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let list = Self::whole(slf)?;
        list.call_method(intern!(slf.py(), "sort"), (), how)?;
        Ok(())
    }

    /// As `list.count`.
    #[pyo3(signature = (value, /))]
    fn count<'py>(
        slf: &Bound<'py, Self>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.call_method1(intern!(slf.py(), "count"), (value,))
    }

    /// As `list.index`.
    #[pyo3(signature = (*item_and_range))]
    fn index<'py>(
        slf: &Bound<'py, Self>,
        item_and_range: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::whole(slf)?.call_method1(intern!(slf.py(), "index"), item_and_range.clone())
    }

    /// An info may hold anything, these infos too.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.items {
            Items::Unread => Ok(()),
            Items::Some(items) => items.iter().flatten().try_for_each(|info| visit.call(info)),
            Items::All(list) => visit.call(list),
        }
    }

    fn __clear__(&mut self) {
        self.items = Items::Unread;
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Infos>()?;
    let sequence = m
        .py()
        .import("collections.abc")?
        .getattr("MutableSequence")?;
    sequence.call_method1("register", (m.getattr("Infos")?,))?;
    Ok(())
}
