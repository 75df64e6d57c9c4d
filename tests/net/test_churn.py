"""Ten minutes of peers that come, stall, lie, cut and go, in virtual time: readers lose nothing, nothing is left over."""

from __future__ import annotations

import gc
import os
import random
import tracemalloc

import pytest
import trio

from datfs.net.discovery import Found
