-- Tokens: our own keys, and those of others.
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- Tokens of a stranger's four keys, whose private halves nobody has any more;
-- good until 2100. Made for this test: the good ones, and one for each rule.
create temporary table tokens (name text primary key, token text not null);
insert into tokens (name, token)
values
    ('good_es256', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.uRPeaDpxoGRU3JsiqVpgyjdaXjSgPOlWkugfuccL9UE22RyU8_cvRXrzT3m0QzLThA5XOg3AaKOtWR6Baox5ZA'),
    ('good_rs256', 'eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InJzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.D3xXasMhAPjqu1z5Ux7AOgBb1VI04EcThlvqSda6ftqdesxLbBiDIR6y67jI-Qe3-m04_LOm_C6C2BD1YBegups3yZ_XSas6WBKTTyu5JBLysjblKqgdFlVST56eTBQPbEuyJkEgqim5B9ByFv-6XxxXdHkMXyUUBbEISSwvRk4JmovWBcbddvMUA1S8p2zClyZFIYqg8fczu5fTRee3edoMonYraCjard3U3XPmWOiTu4OBBB5wPacM3uVz6JoZClBiXR1-7qXtyUAwnYsM1vf-2WXVrOAphao78y1JrNTHn4MhtLUDXLchYSheesJJak24OyIEwVoVloPhM7EFMw'),
    ('good_ps256', 'eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6InBzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.z3GshTaI1bV6_zji8ITkv0xZTmV92peLF-kWDaBB4VOtkS4HFaVHVDMvb-qPJPfYflaEG49zywqC_YwB7AHfc_guRo3_uut-FE00cOnBrk-jBzmO3eYMlmx6Pa3QfXQaEHIHENOY9ISMrikxu4Kiirn82Vwrn40fz_irumsXB5ZvQzk9RpgzVltp_NkR57iJ15omOeAQE0mVxALd7l7i1a9siBMh9F5AOi1Im173n6G3Acux3PE2RnvAWdn-cMtu8jEYRg4xRINCtOPsf9dxwYLzMPaxn20usBfzeRd2lnl13Y1PsS3A7tFdFelVCOkREvx-gY_c6mEIg24F4XQ1OQ'),
    ('good_eddsa', 'eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCIsImtpZCI6ImVkZHNhIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.ym_pnU1kkvxBfMx_U4W55UFh93Ydkl8_WnK25dr_goQ21tXQ6C3Qk8MMdsPAx8uNM3wev-G6xP4-8TjpMo3DAQ'),
    ('header_twice', 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImVzMjU2Iiwia2lkIjoiZXMyNTYifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.r2y5SWDceEww9BEz3_YuxOMWoO_0lSYjEJqQH4SAK2tvC9B5OGwMFkDd0VFcL2i0Lu7xEhvfezJYMJFlD1e2aw'),
    ('claim_twice', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJzdWIiOiJhZGEiLCJzdWIiOiJib2IiLCJleHAiOjQxMDI0NDQ4MDB9.cjx2LCZPw3gY6XtLyDVfH7P6qRZqVO2Zbr4lIEVSn_NWA1kiY-fmRZOi567SO2qpPXra93-RM6sLfOOdo3cTMg'),
    ('crit', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2IiwiY3JpdCI6WyJleHAiXX0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.liRsYfLpT8_Tv4eDe5oYcihvYtIscwECRN7M_VZ9ISt71wFNnjoKIaalPv5aDSd6LxdZ0UV7mfuEUyEoVa3bYA'),
    ('b64_false', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2IiwiYjY0IjpmYWxzZX0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.rqBpLgU2YqiL1OPTzwDGS-PTei_DAowe9S_gPeZUwyI_CemrKFh8coKdRfVIxm6lnPPQArir7j3IPsigJ6qxNQ'),
    ('b64_true', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2IiwiYjY0Ijp0cnVlfQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.JVb0c7Zv3RKJhHZnF-N2WEXcD3KyqrxAeQsKj8XW0-flBVpT94YuhBxLv-CzidPV6XxC0RFl_1Ri4PUuGUafwA'),
    ('embedded_jwk', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6IlpVa1FLSy1SUGVhcnRhNXR3YXJvM0pucktQRXBTYmVsNEVqam1KN2RXbm8iLCJ5IjoiLWZyY2ZjcWczQ1dlVmR0MUpSZFdQSDlBaEg5SEdCMkVkakc3RGVTSUFBRSIsImNydiI6IlAtMjU2Iiwia2lkIjoiZXMyNTYiLCJhbGciOiJFUzI1NiJ9fQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.IrtMISNfK7brmlVTTwyKoLnODSV_TPxQSQCsX3DxFeA7OKpNTIN1SGAiupLsS1ZzPe6usBb4sDNAMdh-9bUisw'),
    ('jku', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2Iiwiamt1IjoiaHR0cHM6Ly9pc3N1ZXIuZXhhbXBsZS9rZXlzIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.G17xIktNAnCLzJz1W5fOgJ5VHICyXDRMrlk6Crmcvyjf5qqYO0SKffHDrOs7hBSzTRZ9M3iUmguw_WWoJpiqYA'),
    ('x5c', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2IiwieDVjIjpbIkFBIl19.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.v3466uQkWYA9CKY7mImbiHeRXNmquH9QmC63VM4m9WcF1R0FrtOJjGFB8TdkTsr1P2sGP4lhah85_P3JT5Rwzw'),
    ('unknown_kid', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6Im90aGVyIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.YsqWtRsVO07qAONrp-3qLNGKPyZiVHGxGlkEUnaB7z1stNQrkfaspXifAE-IrNZLxgSLkdMK_HNSfcVHHpFLbQ'),
    ('no_kid', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.i70OL7CCPg86Ah1x6JpONT_Rv5sTjK2M0rfMOxCcFAtMZD20_nH9Gx0LxdEKMm2splIfIIym7ypMAAsp4xPE_w'),
    ('kid_number', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6MX0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.drkKgcDEeOh4THgLMg-cFEvW1ao4kBSSY5f5qXVr3qbVFiqBnH8lKRPPQhE6lqKRzDVxR8q5YN2XRjy3tPC3Hw'),
    ('alg_lower', 'eyJhbGciOiJlczI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.T_7-doaBXkkEcPL7tf_OBhsuZru65kEqx1CP9WsLbXg2tB7rv1gZB2zWNTNBHNZUqFw4a-7Gso8CWLXZTohzyw'),
    ('alg_other', 'eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.JFpqmHE4aPQbkRythktt2vIU_n4be_DkbfLrjrbW09mSGpN-90bE4JFLxFi58fe5gZ8ogagExrK_YsGVs8mLdQ'),
    ('spaces_in_header', 'eyAiYWxnIiA6ICJFUzI1NiIgLCAia2lkIiA6ICJlczI1NiIgfQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.Zt_kV9eOBo5EICDQ9PeGb20iHbkP9_dYEVGEapdLfMJXEr9wUxiUv72HWpXOTAK_rIBRxt88ivSU-J9CzEwGHw'),
    ('not_object', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.WzFd._d2xYuoCAMYelJS9E-yRIs59KCeDMaMhBOJjutRUM30u9467JEQgT9a6RfG2k_CBdA-d44MU8kQtmeW_JKKfww'),
    ('not_json', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.Zm9v.avOkPQhYyUaP_l_gmMn5kPTeUFHWQPqD4L9deZB5AXvlL6ouNM0RXWP8Q8qwB9PUVDxgIytcEqCZvCYMIFTQHw'),
    ('empty', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0..WenBMHXJoku3uW74M7kdCYA1gWfo_2hiwMblAf5wkdge0nmGESOoyynuP-ZdDb-J4vG-oWtPgxsBa-oiYkT3cA'),
    ('deep_16', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImEiOltbW1tbW1tbW1tbW1tbW11dXV1dXV1dXV1dXV1dXX0.dIWbjYG-QReHZBJmOL5Ro-_khAVIuht9YlbA-NDxH6aN0_bHeMdOW9Yn9SH3onIUsMPU5cO4LUFnewl_YYwEXA'),
    ('deep_17', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImEiOltbW1tbW1tbW1tbW1tbW1tdXV1dXV1dXV1dXV1dXV1dfQ.uqlrRfAGJvdLwFQBb3gOwSs9mYYXpPidK_cqdd0OZu77iKFGcimCMu-MLh9yshF2BL1_vevU2yVsYHhPyqRC2A'),
    ('nul', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImEiOiJcdTAwMDAifQ.Ugb40UUV4CJei0w4SiElrXfZMlzGZHgvpDG_vfZlopnttkkaRs7rP0ZpS_kF65FYibrOdr6uKNkROEd_jBBpig'),
    ('no_exp', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJzdWIiOiJhZGEifQ.2q73c2GNocutcXsN-bGmW_BpRd5E8YvVXusodA6q4frQqLrJktkxxBtyIqiQ_56qfJYCJsanVwZhx4P5t1puUA'),
    ('exp_text', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOiI0MTAyNDQ0ODAwIn0.oZ4lio2xeuB9GXDd6c9PBi5bsWI883O9nmreH87uBzFZ6Sk_hHQN44kboYjAvSSdl1lEDdYVVlpde1U6-B50mg'),
    ('expired', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjE3MDAwMDAwMDB9.Gsv4eDAc73kqNF9W6VJyc1PZvcley-Xj_-IlvBa2HyilEbSSx4iRowY4fXmV-AhLnipehRmVqZBNxXA9NpvOMw'),
    ('nbf_future', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsIm5iZiI6NDEwMjQ0NDc5OX0.Gr6m40HyMbcTtnmvbp3zl_pRUP0U9XptZO3yFNdxAS-T8tk_6C2rbZPHtzY7p6b_OiXm0797lXmi1ojLDgZ9Dw'),
    ('iat_future', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImlhdCI6NDEwMjQ0NDc5OX0.CFUD6yorTVtEM0ZW6HkFaOPmb0UGhG2t1R8AWNfJKtWIPHDsVTeX0dOtwRG88oD2B-JnRuhsi8VlIM6hw5Nhsg'),
    ('exp_fraction', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAuNX0.TGHvANO04LJAsMDz9Yna_L7b1kvw6TR1-oc3SH-GPACPoJGkULCAEgdQty2ETBuwcqlPAvhPtI_1gH5LlFlJpA'),
    ('aud_list', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImF1ZCI6WyJvdGhlciIsImtlZWxzb24iXX0.Ip5LgPhTuoogT3O4TellmaecJAJEZ2q2ZcrXPWPNcu5YQ5_JreDbD_wBmWw4HLI7EUYrlODmrM_I6-X2Ybkp3A'),
    ('aud_mixed', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDAsImF1ZCI6WyJrZWVsc29uIiwxXX0.0VKtkZo8NXuMntuFXTq02gGoJ_PZcO1IKreDWCQ5dVxobUj7zcRa50q5CAbLDPa9X_JtIFRhUz_7W4wnZi9cvw'),
    ('no_aud', 'eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCIsImtpZCI6ImVzMjU2In0.eyJleHAiOjQxMDI0NDQ4MDB9.rwQGsLW3bDn4fV8FhKWFAiENalO4weAURihsJRIp1qe_du1jUm3wa0Ai_O854Z8qlB8qcECeI7HmLxFFKdHA_w'),
    ('typ_at', 'eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.Nenv86XYqgyzPsyIY3So3n0YfVOgO3-5j0BKL_KbnrF490WQ_UqQdgF1rAVVd2ErBlKVbYvfjLPuvuaMNH7HjQ'),
    ('typ_application', 'eyJhbGciOiJFUzI1NiIsInR5cCI6ImFwcGxpY2F0aW9uL0FUK0pXVCIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.6SHdgqQBO2idy7yZ0OMH3Jo7QAjISHj5O-QRyPfd_QCf61-7ldjauLRyPKQ1KIiYJKA3Feh4Qcwcd-FApUE53w'),
    ('no_typ', 'eyJhbGciOiJFUzI1NiIsImtpZCI6ImVzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.W974jypyhwxUNrvwjfvLKkK_DQg2Zu4MSqzzmz0QkiCcdTdiCpttRee13LGGz4X4ggnsqWLYocgJD9pRsI6XuQ'),
    ('none', 'eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.'),
    ('none_signed', 'eyJhbGciOiJub25lIiwia2lkIjoiZXMyNTYifQ.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.uRPeaDpxoGRU3JsiqVpgyjdaXjSgPOlWkugfuccL9UE22RyU8_cvRXrzT3m0QzLThA5XOg3AaKOtWR6Baox5ZA'),
    ('hs256', 'eyJhbGciOiJIUzI1NiIsImtpZCI6InJzMjU2In0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoiYWRhIiwiYXVkIjoia2VlbHNvbiIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MTAyNDQ0ODAwfQ.vy1JUcBcKyQoE9e4dIKzQ21tL8iU9MHUoO3hOMHtCKs');
create temporary table strangers as select '{"keys":[{"kty":"EC","x":"ZUkQKK-RPearta5twaro3JnrKPEpSbel4EjjmJ7dWno","y":"-frcfcqg3CWeVdt1JRdWPH9AhH9HGB2EdjG7DeSIAAE","crv":"P-256","kid":"es256","alg":"ES256"},{"kty":"RSA","n":"jWhdtEmfo4TtzPw2mvOuHE9NXOI7dJm07K0JcWr9EESjFaN-DCm4g0kuh0glbpQUfE5YAhoWHfkUuZ1DtSw4nu-UlmDjat7H5GGeoc40VkYbAN-IOb0hbrKOTeEtwXKHjH4GPEp-cGfc9HdIBcHj_HrUtpXflN0_RcAM3MLrC-99KOBguhEL3cW_sOYHiNcr8MNPJpzjeMiMn_eQGpoXoqYN2nXbO-T2MeSxLkqF3yxBm646_kHXIIya-c8XiOZ4-Xk9593P7ScWHBRU_LHM63cS3bXFjxpLicA4hJuQAHu_FwuJwbrnLEVuxCXg3_CFvBp_kVcj3HT19ePs6mnF1Q","e":"AQAB","kid":"rs256","alg":"RS256"},{"kty":"RSA","n":"3GxTpExF-nBgL9PMOo7QyRZuEOtdLVGWVfcsYdooJol_nn0MLyHZrR4nKZxgam3uPMrZIOig4D5IcHPI2Se0e9LHwflmoDYhG7dvFoPBMV3XfZjxtlRHM7rVfnl_NUhiymeyr83oRDWvQd3_qFBRrIkJIHCTfR2ipwjm0vwAc7DelJqRGinhNC5xveXImu7kWDez2-eOAUlOVycd1BUlshFNh4RBPB_ZQ9vGYFCtrbTtVCUpn4N8dDxYYEUQ9_Y8mjWxWe3jgqM_MubuJe84fVLWxZLQHl1VAYvowG1ivJmoHiZJtG1s4n0EX081vfXxRgTmqkIhY5GSjMsUHN_D5w","e":"AQAB","kid":"ps256","alg":"PS256"},{"crv":"Ed25519","x":"QejINAgqnigOF47IfgXz4auJkIpYdArEfxE97AfyKn0","kty":"OKP","kid":"eddsa","alg":"EdDSA"}]}'::jsonb as keys;

-- What verifying says: the claims' subject, or the refusal.
create function pg_temp.try(token text, keys jsonb default null, pem text default null, algorithms text[] default null,
    issuer text default null, audience text[] default null, typ text default null, leeway integer default 30)
returns text
language plpgsql
as $$
declare
    message text;
    code text;
begin
    return coalesce(keelson.jwt_verify(token, keys, pem, algorithms, issuer, audience, typ, leeway)->>'sub', 'good');
exception when sqlstate 'KS401' or sqlstate 'KS400' then
    get stacked diagnostics message = message_text, code = constraint_name;
    return code || ': ' || message;
end
$$;

-- Every token, with all the stranger's keys.
select name, pg_temp.try(token, keys) as result from tokens, strangers order by name collate "C";

-- The algorithm must be allowed, and it is the key's.
select name, pg_temp.try(token, keys, algorithms => '{ES256,EdDSA}') as result
from tokens, strangers where name like 'good%' order by name;
select pg_temp.try(token, keys, algorithms => '{ES256,HS256}') as result from tokens, strangers where name = 'good_es256';
select pg_temp.try(token, keys, algorithms => '{none}') as result from tokens, strangers where name = 'none';
select pg_temp.try(token, keys, algorithms => '{}') as result from tokens, strangers where name = 'good_es256';
select pg_temp.try(token, jsonb_set(keys, '{keys,0,alg}', '"ES384"')) as result from tokens, strangers where name = 'good_es256';
select pg_temp.try(token, jsonb_set(keys, '{keys,1,alg}', '"PS256"')) as result from tokens, strangers where name = 'good_rs256';

-- A key that does not say its algorithm: RSA is for RS256.
select name, pg_temp.try(token, jsonb_build_object('keys', jsonb_build_array((keys->'keys'->1) - 'alg', (keys->'keys'->2) - 'alg'))) as result
from tokens, strangers where name in ('good_rs256', 'good_ps256') order by name;

-- Sets that are refused, or hold no key of use.
select what, pg_temp.try((select token from tokens where name = 'good_es256'), changed) as result
from strangers,
    lateral (values
        (1, 'a kid twice', jsonb_set(keys, '{keys,3,kid}', '"es256"')),
        (2, 'a symmetric key', jsonb_set(keys, '{keys,3}', '{"kty":"oct","k":"AAAA","kid":"s"}')),
        (3, 'a private key', jsonb_set(keys, '{keys,3,d}', '"AAAA"')),
        (4, 'for encryption', jsonb_set(keys, '{keys,0,use}', '"enc"')),
        (5, 'for signing', jsonb_set(keys, '{keys,0,key_ops}', '["sign"]')),
        (6, 'for verifying', jsonb_set(keys, '{keys,0,key_ops}', '["verify"]')),
        (7, 'off the curve', jsonb_set(keys, '{keys,0,x}', keys->'keys'->0->'y')),
        (8, 'padded', jsonb_set(keys, '{keys,0,x}', to_jsonb((keys->'keys'->0->>'x') || '='))),
        (9, 'another curve', jsonb_set(keys, '{keys,0,crv}', '"P-384"')),
        (10, 'no kty', jsonb_set(keys, '{keys,0}', (keys->'keys'->0) - 'kty')),
        (11, 'kty unknown', jsonb_set(keys, '{keys,3}', '{"kty":"XYZ","kid":"z"}')),
        (12, 'a kid that is a number', jsonb_set(keys, '{keys,0,kid}', '1')),
        (13, 'not an object', '[]'),
        (14, 'keys not an array', '{"keys":{}}'),
        (15, 'an element not an object', '{"keys":[1]}'),
        (16, 'no keys', '{"keys":[]}'),
        (17, '33 keys', jsonb_build_object('keys', (select jsonb_agg(jsonb_build_object('kty', 'XYZ', 'kid', n::text)) from generate_series(1, 33) as n))),
        (18, 'a single key', keys->'keys'->0),
        (19, 'a short RSA key', '{"kty":"RSA","n":"qYs2PnhFAvc79zX0cLH-QHbbcZEPZK4vTvvLNgFnSgJxtMXmFHmIELHXH7FzhUNPq_96chOEyEQTDYEsaw7andZerISynJfHe9hveJzgk15aT0qq2DVO8nwnqbc_hHFNav7Phzy66WQgmRrDT9bDuzpKbw4hqbED7hACuLvQx1U","e":"AQAB"}')
    ) as sets (place, what, changed)
order by place;

-- Keys in PEM.
\set es256_pem '-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEZUkQKK+RPearta5twaro3JnrKPEp\nSbel4EjjmJ7dWnr5+tx9yqDcJZ5V23UlF1Y8f0CEf0cYHYR2MbsN5IgAAQ==\n-----END PUBLIC KEY-----'
\set rs256_pem '-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAjWhdtEmfo4TtzPw2mvOu\nHE9NXOI7dJm07K0JcWr9EESjFaN+DCm4g0kuh0glbpQUfE5YAhoWHfkUuZ1DtSw4\nnu+UlmDjat7H5GGeoc40VkYbAN+IOb0hbrKOTeEtwXKHjH4GPEp+cGfc9HdIBcHj\n/HrUtpXflN0/RcAM3MLrC+99KOBguhEL3cW/sOYHiNcr8MNPJpzjeMiMn/eQGpoX\noqYN2nXbO+T2MeSxLkqF3yxBm646/kHXIIya+c8XiOZ4+Xk9593P7ScWHBRU/LHM\n63cS3bXFjxpLicA4hJuQAHu/FwuJwbrnLEVuxCXg3/CFvBp/kVcj3HT19ePs6mnF\n1QIDAQAB\n-----END PUBLIC KEY-----'
select name, pg_temp.try(token, pem => :'es256_pem') as result from tokens where name in ('good_es256', 'good_rs256', 'no_kid') order by name;
select name, pg_temp.try(token, pem => :'rs256_pem') as result from tokens where name in ('good_es256', 'good_rs256', 'good_ps256') order by name;
select pg_temp.try(token, pem => 'nothing') as result from tokens where name = 'good_es256';
select pg_temp.try(token, keys, :'es256_pem') as result from tokens, strangers where name = 'good_es256';

-- Issuer, audience, type, leeway.
select pg_temp.try(token, keys, issuer => 'https://issuer.example') as ours,
    pg_temp.try(token, keys, issuer => 'https://issuer.example/') as other
from tokens, strangers where name = 'good_es256';
select name, pg_temp.try(token, keys, audience => '{keelson,third}') as result
from tokens, strangers where name in ('good_es256', 'aud_list', 'aud_mixed', 'no_aud') order by name collate "C";
select pg_temp.try(token, keys, audience => '{third,null}') as result from tokens, strangers where name = 'aud_list';
select name, pg_temp.try(token, keys, typ => 'at+jwt') as result
from tokens, strangers where name in ('good_es256', 'typ_at', 'typ_application', 'no_typ') order by name collate "C";
select pg_temp.try(token, keys, leeway => 31) as result from tokens, strangers where name = 'good_es256';
select pg_temp.try(token, keys, leeway => -1) as result from tokens, strangers where name = 'good_es256';

-- Form: each single character changed, cut or added is refused.
select count(*) as wrongly_accepted
from tokens, strangers, generate_series(1, length(token)) as place
where name = 'good_es256'
    and pg_temp.try(overlay(token placing case when substr(token, place, 1) = 'A' then 'B' else 'A' end from place for 1), keys) = 'ada';
select what, pg_temp.try(changed, keys) as result
from tokens, strangers,
    lateral (values
        (1, 'a new line', token || E'\n'),
        (2, 'a blank', ' ' || token),
        (3, 'padding', token || '='),
        (4, 'a fourth part', token || '.'),
        (5, 'no signature', split_part(token, '.', 1) || '.' || split_part(token, '.', 2) || '.'),
        (6, 'two parts', split_part(token, '.', 1) || '.' || split_part(token, '.', 2)),
        (7, 'no payload', split_part(token, '.', 1) || '..' || split_part(token, '.', 3)),
        (8, 'empty', ''),
        (9, 'dots', '..'),
        (10, 'too long', token || repeat('A', 8192)),
        (11, 'another''s signature', split_part(token, '.', 1) || '.' || split_part(token, '.', 2) || '.' ||
            (select split_part(other.token, '.', 3) from tokens as other where other.name = 'no_typ'))
    ) as forms (place, what, changed)
where name = 'good_es256'
order by place;
select keelson.jwt_verify(null);

-- Our own: signed, verified, of the type asked for; the header holds no more than it needs.
select keelson.jwt_sign('{"sub": "ada", "exp": 4102444800}', 'test+jwt') as token \gset
select keelson.jwt_verify(:'token', typ => 'test+jwt');
select pg_temp.try(:'token', typ => 'at+jwt');
select pg_temp.try(:'token', keelson.jwks());
select pg_temp.try(token, null) from tokens where name = 'good_es256';
select array_agg(key order by key) as header, max(value) filter (where key = 'alg') as alg, max(value) filter (where key = 'typ') as typ,
    bool_or(keelson.jwks()->'keys' @> jsonb_build_array(jsonb_build_object('kid', value))) as is_kid_of_ours
from jsonb_each_text(convert_from(decode(rpad(translate(split_part(:'token', '.', 1), '-_', '+/'),
    (length(split_part(:'token', '.', 1)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb);
-- Two signatures of one payload differ, for ECDSA draws a number.
select keelson.jwt_sign('{"exp": 4102444800}') <> keelson.jwt_sign('{"exp": 4102444800}') as differ;
select keelson.jwt_sign('{"sub": "ada"}');
select keelson.jwt_sign('[]');
select keelson.jwt_sign('{"exp": "soon"}');
select keelson.jwt_sign('{"exp": 4102444800}', 'a"b');
select keelson.jwt_sign('{"exp": 4102444800}', '');
select keelson.jwt_sign(jsonb_build_object('exp', 4102444800, 'a', repeat('x', 8000)));
select keelson.jwt_sign(null) is null as null_is_null;

-- The set we publish: what RFC 7517 asks of a P-256 key and no more, kid the RFC 7638 thumbprint.
select array_agg(distinct member order by member) as members
from jsonb_array_elements(keelson.jwks()->'keys') as key, jsonb_object_keys(key) as member;
select count(*) as wrong
from jsonb_array_elements(keelson.jwks()->'keys') as key
where key->>'kid' <> rtrim(translate(encode(sha256(convert_to(format(
        '{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}', key->>'x', key->>'y'), 'UTF8')), 'base64'), '+/', '-_'), '=')
    or key->>'kty' <> 'EC' or key->>'crv' <> 'P-256' or key->>'alg' <> 'ES256' or key->>'use' <> 'sig';

-- Rotation: the next key is published before it signs; a key that ends goes an hour later.
select keelson.signing_key_rotate('23 hours');
select keelson.signing_key_rotate(null);
begin;
create temporary table before as select jsonb_array_length(keelson.jwks()->'keys') as published, keelson.jwks()->'keys'->0->>'kid' as kid;
select keelson.signing_key_rotate() as next \gset
select jsonb_array_length(keelson.jwks()->'keys') - published as more, keelson.jwks()->'keys'->0->>'kid' = :'next' as is_next from before;
savepoint here;
select keelson.signing_key_rotate();
rollback to here;
create function pg_temp.kid_of(token text) returns text language sql as $$
    select convert_from(decode(rpad(translate(split_part(token, '.', 1), '-_', '+/'),
        (length(split_part(token, '.', 1)) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb->>'kid'
$$;
select pg_temp.kid_of(keelson.jwt_sign('{"exp": 4102444800}')) = kid as old_signs from before;
select keelson._access_token_sign(keelson.uuid7(), keelson.uuid7(), 1, 900) as old_token \gset
-- Half an hour after the next has begun, and the old long before.
update keelson.signing_keys set active_from = now() - interval '1 week' where kid <> :'next';
update keelson.signing_keys set active_from = now() - interval '30 minutes' where kid = :'next';
select keelson._signing_keys_changed();
select pg_temp.kid_of(keelson.jwt_sign('{"exp": 4102444800}')) = :'next' as next_signs;
select state as old_token from keelson._access_token_verify(:'old_token');
select count(*) as old_published from before, jsonb_array_elements(keelson.jwks()->'keys') as key where key->>'kid' = before.kid;
-- Two hours after.
update keelson.signing_keys set active_from = now() - interval '2 hours' where kid = :'next';
select keelson._signing_keys_changed();
select state as old_token from keelson._access_token_verify(:'old_token');
select count(*) as old_published from before, jsonb_array_elements(keelson.jwks()->'keys') as key where key->>'kid' = before.kid;
rollback;
-- Rolled back: the old signs again.
select pg_temp.try(:'token', typ => 'test+jwt');

-- Revoking ends all tokens of the key at once, and another signs.
begin;
select keelson._access_token_sign(keelson.uuid7(), keelson.uuid7(), 2, 900) as ours \gset
select state, aal, expires_at > now() as later from keelson._access_token_verify(:'ours');
select keelson.signing_key_revoke(keelson.jwks()->'keys'->0->>'kid');
select state from keelson._access_token_verify(:'ours');
select state from keelson._access_token_verify(keelson._access_token_sign(keelson.uuid7(), keelson.uuid7(), 1, 900));
rollback;
select state from keelson._access_token_verify(:'ours');
select keelson.signing_key_revoke('nobody''s');
-- The private half is sealed, and in its row alone.
select count(*) as not_sealed from keelson.signing_keys
where length(private_key) <> 65 or public_key ? 'd';
begin;
update keelson.signing_keys set private_key = set_byte(private_key, 40, get_byte(private_key, 40) # 1);
select keelson._signing_keys_changed();
select keelson.jwt_sign('{"exp": 4102444800}');
rollback;

-- Access tokens: valid, known again, expired, not ours.
select keelson._access_token_sign('00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002', 2, 900) as access \gset
select state, user_id, session_id, aal, expires_at - now() between interval '14 minutes' and interval '16 minutes' as fits
from keelson._access_token_verify(:'access'), generate_series(1, 2);
select state, user_id from keelson._access_token_verify(
    keelson._access_token_sign('00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002', 1, -1)), generate_series(1, 2);
select state, user_id from keelson._access_token_verify(:'token');
select name, state from tokens, keelson._access_token_verify(token) where name in ('good_es256', 'typ_at') order by name;
-- Signed by us, but another purpose's: type, issuer, audience, and ids must be an access token's.
create function pg_temp.access(changes jsonb, typ text default 'at+jwt') returns text language sql as $$
    select state from keelson._access_token_verify(keelson.jwt_sign(jsonb_build_object(
        'iss', current_setting('keelson.public_url'), 'aud', current_setting('keelson.public_url'), 'sub', '00000000-0000-7000-8000-000000000001',
        'sid', '00000000-0000-7000-8000-000000000002', 'iat', 1700000000, 'exp', 4102444800, 'aal', 1) || changes, typ))
$$;
select pg_temp.access('{}') as as_ours,
    pg_temp.access('{}', 'JWT') as typ,
    pg_temp.access('{"iss":"https://issuer.example"}') as iss,
    pg_temp.access('{"aud":"other"}') as aud,
    pg_temp.access('{"sub":"ada"}') as sub,
    pg_temp.access('{"sub":"{00000000-0000-7000-8000-000000000001}"}') as sub_form,
    pg_temp.access('{"sid":null}') as sid,
    pg_temp.access('{"iat":4102444000}') as iat,
    pg_temp.access('{"exp":1700000001}') as exp,
    pg_temp.access('{"aal":"1"}') as aal;
-- More tokens than the cache holds are verified all the same.
select count(*) from generate_series(1, 1300) as n,
    keelson._access_token_verify(:'access') where state = 'valid';

-- Who may.
set role keelson_app;
select keelson.jwt_sign('{"exp": 4102444800}');
select keelson._access_token_sign(keelson.uuid7(), keelson.uuid7(), 1, 900);
select keelson._signing_key_make(now());
select private_key from keelson.signing_keys;
select keelson.signing_key_rotate();
select jsonb_array_length(keelson.jwks()->'keys') > 0 as may_read_the_public_keys;
select keelson.jwt_verify(:'token')->>'sub' as may_verify;
set role keelson_admin;
select keelson.jwt_sign('{"exp": 4102444800}');
select private_key from keelson.signing_keys;
select count(*) > 0 as may_look from (select kid, active_from, revoked_at from keelson.signing_keys) as looked;
reset role;
