"""Name -> class, with errors a newcomer can act on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from foveate.errors import one_of

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Mapping[str, type[T]], Generic[T]):
    """A named family of classes, filled by `@REGISTRY.register("name")` when their files are imported."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        if name in self._items:
            raise KeyError(f"{self.kind} {name!r} is already registered")

        def add(cls: C) -> C:
            self._items[name] = cls  # type: ignore[assignment]  # a class keeps its own type by this
            return cls

        return add

    def name_of(self, cls: type) -> str:
        """The name `cls` was registered under."""
        return next(name for name, item in self._items.items() if item is cls)

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._items:
            raise one_of(self.kind, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
