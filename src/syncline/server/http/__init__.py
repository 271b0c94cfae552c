"""HTTP/1.1 connections: parsing, the order of answers, limits. This package knows no route."""
