"""Types that the settings share."""

from typing import Annotated

from pydantic import Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
#: Share of examples in a split that must not be empty.
SplitShare = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
